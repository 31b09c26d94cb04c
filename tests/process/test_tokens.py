"""Buckets of tokens: how often something may happen."""

from __future__ import annotations

from shardnet.process.tokens import Bucket, Buckets, Pace


def test_a_bucket_gives_what_comes_into_it() -> None:
    bucket = Bucket(Pace(2.0, 3))
    for _ in range(3):
        assert bucket.free_s <= 5.0
        bucket.take(5.0)
    assert bucket.free_s == 5.5 and not bucket.is_full(6.0) and bucket.is_full(6.5)
    bucket.give_back()
    assert bucket.free_s == 5.0


def test_buckets_that_are_full_are_forgotten() -> None:
    buckets = Buckets(Pace(1.0, 1), most=10)
    for number in range(100):
        buckets.take(str(number), number / 2)
    assert len(buckets) <= 10
