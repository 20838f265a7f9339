"""The AWS file, with the real `ray up`, against an emulated EC2 on a host of its own.

The host's network leads nowhere. What this can't show: that the image boots, EFS
mounts, the profile's rights are enough, and that a GPU is there.
"""

import base64
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.fill import ROOT, Unset, fill, pinned
from tests.hosts.hosts import Host, Hosts, needs_hosts

FILE = ROOT / "deploy" / "launcher" / "aws.yaml"
SERVER = shutil.which(
    "moto_server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
)
YOURS = {
    "AWS_REGION": "us-west-2",
    "AMI": "ami-12c6146b",  # one that the emulator knows
    "EFS_ID": "fs-12345678",
    "INSTANCE_PROFILE": "doggos-node",
}
ENDPOINT = "http://127.0.0.1:5000"
ACCESS = {
    "AWS_ENDPOINT_URL": ENDPOINT,
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": YOURS["AWS_REGION"],
    "RAY_AUTH_MODE": "token",
    "RAY_UP_enable_autoscaler_v2": "1",
}
# Ray's own provider, with the configuration that `ray up` bootstrapped for the head.
LAUNCH_WORKER = """
import sys, yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.commands import _bootstrap_config
config = _bootstrap_config(yaml.safe_load(open(sys.argv[1])), no_config_cache=True)
provider = AWSNodeProvider(config["provider"], config["cluster_name"])
node_type = config["available_node_types"]["worker"]
tags = {"ray-node-type": "worker", "ray-user-node-type": "worker"}
provider.create_node(node_type["node_config"], tags, 1)
"""
LOOK = """
import boto3, json
ec2, iam = boto3.client("ec2"), boto3.client("iam")
found = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
for one in found:
    ask = {"InstanceId": one["InstanceId"], "Attribute": "userData"}
    data = ec2.describe_instance_attribute(**ask)["UserData"]
    one["UserData"] = data.get("Value", "")
groups = ec2.describe_security_groups()["SecurityGroups"]
keys = ec2.describe_key_pairs()["KeyPairs"]
print(json.dumps({"instances": found, "groups": groups, "keys": keys}, default=str))
"""
PREPARE = """
import boto3
iam = boto3.client("iam")
iam.create_instance_profile(InstanceProfileName="doggos-node")
"""


def test_what_is_yours_is_asked_for_by_name():
    with pytest.raises(Unset, match="EFS_ID: the file system") as caught:
        fill(FILE, {name: YOURS[name] for name in ("AWS_REGION", "AMI")})
    assert "INSTANCE_PROFILE" in str(caught.value) and "AMI:" not in str(caught.value)


def test_the_versions_are_those_of_requirements():
    config = yaml.safe_load(fill(FILE, YOURS))
    assert config["docker"]["image"].startswith(f"rayproject/ray:{pinned('ray')}-")


@pytest.fixture(scope="module")
def laptop(session_folder: Path) -> Iterator[Host]:
    with Hosts(session_folder / "aws", ["laptop"]) as hosts:
        host = hosts["laptop"]
        log = host.folder / "moto.log"
        host.popen(
            f"exec {SERVER} -H 127.0.0.1 -p 5000",
            log,
            MOTO_IAM_LOAD_MANAGED_POLICIES="true",
        )
        deadline = time.monotonic() + 60
        while "Running on" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield host


def launched(host: Host, text: str) -> dict:
    """Run `ray up` until it tries to log in; let a worker be launched; look."""
    host.run(f"curl -fsS -X POST {ENDPOINT}/moto-api/reset")
    python(host, PREPARE)
    (host.home / "aws.yaml").write_text(text)
    (host.home / ".ray").mkdir(exist_ok=True)
    (host.home / ".ray" / "auth_token").write_text("0" * 64)
    log = host.home / "up.log"
    up = host.popen("ray up -y --no-config-cache ~/aws.yaml", log, **ACCESS)
    deadline = time.monotonic() + 120
    while " as a test." not in log.read_text():
        assert up.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    up.terminate()
    up.wait(20)
    python(host, LAUNCH_WORKER, "~/aws.yaml")
    return json.loads(python(host, LOOK))


def python(host: Host, program: str, *arguments: str) -> str:
    (host.home / "program.py").write_text(program)
    command = f"python ~/program.py {' '.join(arguments)}"
    return host.run(command, timeout=120, **ACCESS).stdout


def problems(seen: dict, text: str) -> list[str]:
    """Say in what the launched cluster isn't what people need."""
    found = []
    nodes = {kind(one): one for one in seen["instances"]}
    types = {name: node["InstanceType"] for name, node in nodes.items()}
    if types != {"head": "m6i.xlarge", "worker": "g6.2xlarge"}:
        found.append(f"instance types {types}")
    for name, node in nodes.items():
        if (
            not node.get("IamInstanceProfile", {})
            .get("Arn", "")
            .endswith("doggos-node")
        ):
            found.append(f"the {name} has no instance profile")
        data = base64.b64decode(node["UserData"]).decode()
        if f"{YOURS['EFS_ID']}.efs.us-west-2.amazonaws.com:/ /mnt/doggos" not in data:
            found.append(f"the {name} doesn't mount the storage")
        if node.get("KeyName") not in {key["KeyName"] for key in seen["keys"]}:
            found.append(f"nobody can log in at the {name}")
        if [g["GroupName"] for g in node["SecurityGroups"]] != ["ray-doggos"]:
            found.append(f"the {name} is in {node['SecurityGroups']}")
    [group] = [g for g in seen["groups"] if g["GroupName"] == "ray-doggos"]
    ports = {rule.get("FromPort"): rule for rule in group["IpPermissions"]}
    inside = ports.get(None) or ports.get(-1) or {}
    if [p["GroupId"] for p in inside.get("UserIdGroupPairs", [])] != [group["GroupId"]]:
        found.append("the nodes can't reach each other")
    if set(ports) - {None, -1, 22}:
        found.append(f"ports open to the world: {set(ports)}")
    config = yaml.safe_load(text)
    profile = " ".join(config["setup_commands"])
    if "RAY_AUTH_MODE=token" not in profile or "doggos-profile" not in profile:
        found.append("the token isn't asked for")
    if "~/.ray/auth_token" not in config["file_mounts"]:
        found.append("the token isn't there")
    return found


def kind(instance: dict) -> str:
    return {t["Key"]: t["Value"] for t in instance["Tags"]}["ray-user-node-type"]


@needs_hosts
@pytest.mark.skipif(not SERVER, reason="moto is not installed")
def test_ray_up_launches_what_the_file_says(laptop):
    text = fill(FILE, YOURS)
    assert problems(launched(laptop, text), text) == []


@needs_hosts
@pytest.mark.long
@pytest.mark.skipif(not SERVER, reason="moto is not installed")
@pytest.mark.parametrize(
    ("line", "instead", "problem"),
    [
        ('InstanceType: "{{WORKER_TYPE}}"', "", "instance types"),
        ('IamInstanceProfile: {Name: "{{INSTANCE_PROFILE}}"}', "", "instance profile"),
        ("{{EFS_ID}}.efs.{{AWS_REGION}}.amazonaws.com:/", "", "mount the storage"),
        ("RAY_AUTH_MODE=token DOGGOS", "DOGGOS", "the token isn't asked for"),
    ],
)  # fmt: skip
def test_without_a_line_the_test_above_fails(laptop, tmp_path, line, instead, problem):
    whole = FILE.read_text()
    assert line in whole
    (tmp_path / "aws.yaml").write_text(whole.replace(line, instead))
    text = fill(tmp_path / "aws.yaml", YOURS)
    assert problem in "; ".join(problems(launched(laptop, text), text))
