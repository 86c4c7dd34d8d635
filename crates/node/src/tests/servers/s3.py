# moto with one bucket and one user, whose signatures it checks.
import json, os, sys

os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.server import main
from werkzeug.serving import WSGIRequestHandler

WSGIRequestHandler.protocol_version = "HTTP/1.1"
account = "123456789012"
everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
users = iam_backends[account]["aws"]
users.create_user("us-east-1", "node")
key = users.create_access_key("node")
key.access_key_id, key.secret_access_key = "test-key", "test-secret"
users.put_user_policy("node", "all", json.dumps({"Version": "2012-10-17", "Statement": [everything]}))
s3_backends[account]["aws"].create_bucket("bucket", "us-east-1")
main(sys.argv[1:])
