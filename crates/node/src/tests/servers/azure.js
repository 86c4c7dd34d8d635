// Azurite with one container of one account, whose signatures it checks; a token with all rights to that container is written
// into the file token (https://learn.microsoft.com/rest/api/storageservices/create-service-sas).
const { createHmac } = require("crypto");
const { writeFileSync } = require("fs");
const { BlobServerFactory } = require("azurite/dist/src/blob/BlobServerFactory.js");

const [accountName, key] = process.env.AZURITE_ACCOUNTS.split(":");
const said = { sp: "rwdl", se: "2100-01-01T00:00:00Z", spr: "https,http", sv: "2020-12-06", sr: "c" };
const rest = Array(7).fill("");
const signed = [said.sp, "", said.se, `/blob/${accountName}/bucket`, "", "", said.spr, said.sv, said.sr, ...rest].join("\n");
const sig = createHmac("sha256", Buffer.from(key, "base64")).update(signed).digest("base64");
writeFileSync("token", new URLSearchParams({ ...said, sig }).toString());

new BlobServerFactory().createServer().then(async (server) => {
  await server.start();
  const properties = { etag: "0x1", lastModified: new Date() };
  await server.metadataStore.createContainer(undefined, { accountName, name: "bucket", properties });
  console.error("Running on " + server.getHttpServerAddress());
});
