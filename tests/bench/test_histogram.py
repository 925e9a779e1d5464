"""The histogram's guarantee: percentiles within 1/128 of the true value."""

from bench.histogram import Histogram, bucket_of, bucket_top


def test_buckets_ascend_with_the_value():
    values = [*range(2000), *(3**n for n in range(7, 40))]

    assert [bucket_of(v) for v in values] == sorted(bucket_of(v) for v in values)


def test_top_of_a_bucket_is_its_highest_value():
    for value in [0, 1, 255, 256, 257, 511, 512, 99_999, 10**9, 10**12]:
        top = bucket_top(bucket_of(value))

        assert value <= top <= value * (1 + 1 / 128)
        assert bucket_of(top) == bucket_of(value)
        assert bucket_of(top + 1) == bucket_of(value) + 1


def test_percentiles_are_within_a_bucket_of_the_true_ones():
    histogram = Histogram()
    histogram.record(n / 1e6 for n in range(1, 10_001))

    for percent in (50, 90, 99, 99.9, 100):
        true = percent * 100 / 1e6
        assert true <= histogram.percentile(percent) <= true * (1 + 1 / 128)


def test_maximum_minimum_and_mean_are_exact():
    histogram = Histogram()
    histogram.record([0.25, 0.5, 1.5])

    assert (histogram.min, histogram.max, histogram.mean) == (250_000_000, 1_500_000_000, 0.75)


def test_negative_latency_counts_as_zero():
    histogram = Histogram()
    histogram.record([-0.1])

    assert (histogram.count, histogram.max) == (1, 0)


def test_sum_of_two_equals_one_with_both():
    one, other, both = Histogram(), Histogram(), Histogram()
    one.record([0.001, 0.3])
    other.record([0.0001, 0.02])
    both.record([0.001, 0.3, 0.0001, 0.02])

    one.add(other)

    assert one.to_json() == both.to_json()


def test_json_gives_the_same_histogram_back():
    histogram = Histogram()
    histogram.record([0.001, 0.002, 4.0])

    assert Histogram.from_json(histogram.to_json()).to_json() == histogram.to_json()


def test_empty_histogram_has_zero_figures():
    assert set(Histogram().summary().values()) == {0.0}
