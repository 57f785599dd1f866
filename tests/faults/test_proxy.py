"""The faulty proxy itself: without rules it changes nothing, and each rule does what it says."""

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

BODY = bytes(range(256)) * 1024


@pytest.fixture
def client(s3_server, proxy):
    """A client behind the proxy that tries nothing twice."""
    keys = s3_server.environment
    return boto3.client(
        "s3",
        endpoint_url=proxy.endpoint,
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        region_name=keys["AWS_DEFAULT_REGION"],
        config=Config(
            retries={"total_max_attempts": 1},
            read_timeout=2,
            request_checksum_calculation="when_required",
        ),
    )


@pytest.fixture
def place(s3_server, request):
    return {"Bucket": s3_server.bucket, "Key": f"proxy/{request.node.name} ü"}


def test_without_rules_everything_passes_unchanged(client, place, proxy):
    client.put_object(**place, Body=BODY)
    got = client.get_object(**place)["Body"].read()
    head = client.head_object(**place)
    listed = client.list_objects_v2(Bucket=place["Bucket"], Prefix=place["Key"])["Contents"]

    assert got == BODY
    assert head["ContentLength"] == len(BODY)
    assert [item["Key"] for item in listed] == [place["Key"]]
    assert [(method, status) for method, _, status in proxy.answered] == [
        ("PUT", 200), ("GET", 200), ("HEAD", 200), ("GET", 200)
    ]  # fmt: skip


def test_a_lost_answer_is_of_a_request_that_was_served(client, place, proxy):
    rule = proxy.add("lose", method="PUT")

    with pytest.raises(ConnectionClosedError):
        client.put_object(**place, Body=BODY)

    assert rule.fired == 1
    assert client.get_object(**place)["Body"].read() == BODY


def test_a_delayed_request_is_served_after_the_client_gave_up(client, place, proxy):
    proxy.add("delay", method="PUT", value=3)

    with pytest.raises(ReadTimeoutError):
        client.put_object(**place, Body=BODY)

    client.get_waiter("object_exists").wait(**place, WaiterConfig={"Delay": 1})
    assert client.get_object(**place)["Body"].read() == BODY


def test_a_request_that_was_cut_leaves_nothing(client, place, proxy):
    proxy.add("cut_up", method="PUT", value=1000)

    with pytest.raises(ConnectionClosedError):
        client.put_object(**place, Body=BODY)

    assert "Contents" not in client.list_objects_v2(Bucket=place["Bucket"], Prefix=place["Key"])


def test_an_answer_is_cut_in_its_body(client, place, proxy):
    client.put_object(**place, Body=BODY)
    proxy.add("cut_down", method="GET", value=1000)

    with pytest.raises(Exception, match="(?i)connection|reset|broken|incomplete"):
        client.get_object(**place)["Body"].read()

    assert client.get_object(**place)["Body"].read() == BODY


def test_a_blackhole_never_answers(client, place, proxy):
    rule = proxy.add("blackhole", method="GET", key="list-type")

    with pytest.raises(ReadTimeoutError):
        client.list_objects_v2(Bucket=place["Bucket"])

    assert rule.fired == 1
    assert proxy.answered == []


def test_a_status_is_answered_by_the_proxy_for_the_chosen_matches(client, place, proxy):
    rule = proxy.add("status", method="PUT", at=2, times=1, value=503, code="SlowDown")
    client.put_object(**place, Body=b"1")

    with pytest.raises(ClientError, match="SlowDown"):
        client.put_object(**place, Body=b"2")

    assert client.get_object(**place)["Body"].read() == b"1"
    client.put_object(**place, Body=b"3")
    assert (rule.seen, rule.fired) == (3, 1)


def test_a_stripped_condition_lets_the_second_writer_overwrite(client, place, proxy):
    client.put_object(**place, Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match="412|Precondition"):
        client.put_object(**place, Body=b"2", IfNoneMatch="*")

    proxy.add("strip", method="PUT", header="If-None-Match", times=None)
    client.put_object(**place, Body=b"2", IfNoneMatch="*")

    assert client.get_object(**place)["Body"].read() == b"2"
