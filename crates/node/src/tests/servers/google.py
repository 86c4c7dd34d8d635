# moto with one bucket, asked as Google's are: with a token that a service account, whose key is written into credentials.json,
# has signed (https://google.aip.dev/auth/4111).
import base64, json, sys, time
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.s3.models import s3_backends
from moto.server import main
from werkzeug.serving import WSGIRequestHandler

WSGIRequestHandler.protocol_version = "HTTP/1.1"
who = "node@project.test"
key = rsa.generate_private_key(65537, 2048)
encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
with open("credentials.json", "w") as file:
    json.dump({"client_email": who, "private_key_id": "1", "private_key": key.private_bytes(*encoding).decode()}, file)

def decoded(text):
    return base64.urlsafe_b64decode(text + "==")

def is_known(token):
    try:
        said, signature = token.removeprefix("Bearer ").rsplit(".", 1)
        key.public_key().verify(decoded(signature), said.encode(), padding.PKCS1v15(), hashes.SHA256())
    except (ValueError, InvalidSignature):
        return False
    claims = json.loads(decoded(said.split(".")[1]))
    return claims["iss"] == who and claims["iat"] - 60 < time.time() < claims["exp"]

serve = DomainDispatcherApplication.__call__
def serve_known(self, environ, start):
    if is_known(environ.get("HTTP_AUTHORIZATION", "")):
        # It does not look into it, but without one it tells nobody what is in a bucket.
        environ["HTTP_AUTHORIZATION"] = "AWS4-HMAC-SHA256 Credential=node/20200101/us-east-1/s3/aws4_request"
        return serve(self, environ, start)
    start("401 Unauthorized", [("Content-Type", "application/xml")])
    return [b"<Error><Code>AuthenticationRequired</Code></Error>"]

DomainDispatcherApplication.__call__ = serve_known
s3_backends["123456789012"]["aws"].create_bucket("bucket", "us-east-1")
main(sys.argv[1:])
