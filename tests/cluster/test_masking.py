"""Secrets in overrides: masked wherever a command is stored or printed."""

from __future__ import annotations

import pytest

from fairsweep.cluster import masking


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("tracking.api_key=abc", "tracking.api_key=***"),
        ("++service.accessToken='a b'", "++service.accessToken=***"),
        ("space.password.value=hunter2", "space.password.value=***"),
        ("train.py:f:secret=x", "train.py:f:secret=***"),
        ("--token=abc", "--token=***"),
        ("storage=s3://id:pw@bucket/x?region=eu&secret_key=9", "storage=s3://id:***@bucket/x?region=eu&secret_key=***"),
        ("train.config={lr: 0.1, api_key: 'a,b', token: t}", "train.config={lr: 0.1, api_key: ***, token: ***}"),
        ('x={"password": "p", "n": 1}', 'x={"password": ***, "n": 1}'),
        # no secrets
        ("space.key_dim=64", "space.key_dim=64"),
        ("space.tokens=12", "space.tokens=12"),
        ("trainable=keys.py:token", "trainable=keys.py:token"),
        ("storage=s3://bucket/key/token", "storage=s3://bucket/key/token"),
        ("compare", "compare"),
    ],
)  # fmt: skip
def test_the_value_of_a_secret_key_is_masked(word: str, shown: str) -> None:
    assert masking.masked(word) == shown


def test_a_command_is_masked_word_by_word() -> None:
    words = ["fairsweep", "run", "a=b c", "x.secret=1 2", "--password", "pw", "seeds=3"]
    line = masking.command(words)
    assert line == "fairsweep run 'a=b c' 'x.secret=***' --password '***' seeds=3"
    assert (
        masking.masked_command("fairsweep run x.token=abcd 'n=a b'") == "fairsweep run 'x.token=***' 'n=a b'"
    )
    assert masking.masked_command("fairsweep run  x=1") == "fairsweep run  x=1", "nothing to mask: as it was"
    assert "abcd" not in masking.masked_command("fairsweep run x.token=abcd 'cut off")


def test_a_parameter_that_looks_like_a_secret_is_told_to_be_a_column() -> None:
    (said,) = masking.warned({"api_key": "hunter2", "key_dim": "x", "token": 4, "secret": ""})
    assert said.startswith("space.api_key: is a parameter") and "--pass" in said and "hunter2" not in said


def test_an_error_about_a_secret_word_does_not_print_it() -> None:
    words = ["run", "space.api_key=hunter2", "storage=s3://a:pass1@b"]
    said = masking.silenced("space.api_key=hunter2: no such; got 'hunter2' at storage=s3://a:pass1@b", words)
    assert said == "space.api_key=***: no such; got '***' at storage=s3://a:***@b"


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("tracking.uri=http://me:hu@sh@host/x", "tracking.uri=http://me:***@host/x"),
        ("storage=s3://me:hu/sh@bucket/x", "storage=s3://me:***@bucket/x"),
        (
            "storage=s3://b/x?endpoint_override=h:90&scheme=http",
            "storage=s3://b/x?endpoint_override=h:90&scheme=http",
        ),
        ("storage=http://host:80/x@1", "storage=http://host:80/x@1"),
        ("storage=s3://me:123/45/hush@bucket/x", "storage=s3://me:***@bucket/x"),
        ("uri=postgresql://me:80/hush@host/db", "uri=postgresql://me:***@host/db"),
        ("uri=https://me:123456/hush@host/x", "uri=https://me:***@host/x"),
        ("uri=HTTP://host:80/x?to=s3://me:1/2@b", "uri=HTTP://host:80/x?to=s3://me:***@b"),
        ("a=[x://u:hush@h,y://v:hush@k]", "a=[x://u:***@h,y://v:***@k]"),
        ("--pass=WANDB_API_KEY=hush", "--pass=WANDB_API_KEY=***"),
        ("a={api_key: {b: hush}, c: 1}", "a={api_key: ***, c: 1}"),
        ("a={tokens: 3, token: [hush, hush]}", "a={tokens: 3, token: ***}"),
        ("db.pwd=hush", "db.pwd=***"),
    ],
)
def test_secrets_of_odd_shapes_are_masked(word: str, shown: str) -> None:
    assert masking.masked(word) == shown
