"""A data set in a bucket, read anonymously from an S3 server on loopback."""

import boto3
import pytest
from moto.server import ThreadedMotoServer

from doggos_helpers.data.files import list_files
from doggos_helpers.embed.stage import check, embed
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.errors import DataError
from doggos_sample import write_dataset


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3") / "dogs"
    write_dataset(folder, images_per_breed=7, seed=4)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-west-2",
        aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip
    place = {"LocationConstraint": "us-west-2"}
    client.create_bucket(
        Bucket="kennel", ACL="public-read", CreateBucketConfiguration=place
    )
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in paths:
        key = f"v1/{path.relative_to(folder)}"
        client.put_object(
            Bucket="kennel", Key=key, Body=path.read_bytes(), ACL="public-read"
        )
    query = f"?scheme=http&endpoint_override={host}:{port}&region=us-west-2"
    yield "s3://anonymous@kennel/v1" + query, f"s3://anonymous@nowhere/v1{query}"
    server.stop()


def test_embed_reads_a_public_bucket_without_credentials(
    bucket, cluster, tmp_path, monkeypatch
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    uri, _ = bucket
    change = {"dataset": uri, "storage": str(tmp_path)}
    settings = cluster[0].model_copy(update=change)
    run = embed(check(settings), cluster[1])
    assert run["counts"]["errors"] == 0
    assert run["counts"]["embedded"] == run["counts"]["manifest"] >= 96
    assert len(read_embeddings(settings)) == run["counts"]["manifest"]
    assert "kennel" not in str(settings.artefacts).split("/")[-1].split("--")[1]


def test_a_bucket_that_does_not_exist_is_named(bucket):
    with pytest.raises(DataError, match="nowhere"):
        list(list_files(bucket[1]))
