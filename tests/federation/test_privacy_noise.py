"""Noise from the secure source: its distribution, held against exact probabilities, and the stream behind it."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from federation.errors import PrivacyError
from federation.privacy.noise import DISCRETE_GAUSSIAN, NOISES, SKELLAM, share
from federation.privacy.stream import SecureStream, stream_of_key
from federation.privacy.table import MagnitudeTable, gaussian_table, skellam_table, skellam_tail, table_of

KEY = bytes(range(32))
Pmf = Callable[[int], mpmath.mpf]


@pytest.fixture
def stream() -> SecureStream:
    return stream_of_key(KEY)


def skellam_pmf(variance: float) -> Pmf:
    return lambda k: mpmath.besseli(k, mpmath.mpf(variance)) * mpmath.exp(-mpmath.mpf(variance))


def gaussian_pmf(variance: float) -> Pmf:
    def weight(k: int) -> mpmath.mpf:
        return mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(variance)))

    whole = weight(0) + 2 * mpmath.fsum(weight(k) for k in range(1, 20 * math.ceil(math.sqrt(variance) + 1)))
    return lambda k: weight(k) / whole


PMFS = {SKELLAM: skellam_pmf, DISCRETE_GAUSSIAN: gaussian_pmf}
TABLES = {SKELLAM: skellam_table, DISCRETE_GAUSSIAN: gaussian_table}


def threshold(table: MagnitudeTable, k: int) -> int:
    return (int(table.high[k]) << 64) + int(table.low[k])


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("variance", [0.3, 1.0, 77.5, 2500.0])
def test_table_holds_the_probabilities_to_119_bits(noise: str, variance: float) -> None:
    table = TABLES[noise](variance)
    with mpmath.workprec(240):
        pmf = PMFS[noise](variance)
        passed = pmf(0)
        for k in range(min(len(table.high), 150)):
            passed += 2 * pmf(k) if k else 0
            assert abs(threshold(table, k) - passed * 2**128) < 2**9, k


@pytest.mark.parametrize("make", [skellam_table, gaussian_table])
def test_table_ends_where_less_than_2_to_minus_119_is_left(make: Callable[[float], MagnitudeTable]) -> None:
    table = make(400.0)
    assert 0 <= 2**128 - threshold(table, len(table.high) - 1) < 2**9


def test_a_second_word_decides_where_the_first_is_that_of_a_threshold() -> None:
    table = MagnitudeTable(
        high=np.array([5, 9, 9, 12], dtype=np.uint64), low=np.array([7, 3, 2**63, 1], dtype=np.uint64)
    )
    thresholds = [threshold(table, k) for k in range(4)]
    for high in (0, 5, 6, 9, 12, 2**64 - 1):
        for low in (0, 1, 2, 3, 7, 8, 2**63, 2**64 - 1):
            assert table.look_up(high, low) == sum(t <= (high << 64) + low for t in thresholds)


def test_draws_on_a_threshold_are_looked_up_in_full() -> None:
    class Fixed(SecureStream):
        """First words that lie on the second threshold, then second words below and above it."""

        given = ([9, 9, 4], [3], [2])

        def words(self, count: int) -> np.ndarray:
            values, type(self).given = self.given[0], self.given[1:]
            assert len(values) == count
            return np.array(values, dtype=np.uint64)

    table = MagnitudeTable(high=np.array([5, 9], dtype=np.uint64), low=np.array([7, 3], dtype=np.uint64))
    assert np.abs(table.draw(3, Fixed())).tolist() == [2, 1, 0]


@pytest.mark.parametrize(("noise", "variance"), [(SKELLAM, 1.0), (SKELLAM, 90.0), (DISCRETE_GAUSSIAN, 90.0)])
def test_draws_fit_the_distribution_by_chi_square(stream: SecureStream, noise: str, variance: float) -> None:
    count = 200_000
    pmf = PMFS[noise](variance)
    drawn = share(noise, count, variance, stream)
    reach = math.ceil(2.5 * math.sqrt(variance))
    expected = np.array([float(pmf(abs(k))) for k in range(-reach, reach + 1)]) * count
    seen = np.array([(drawn == k).sum() for k in range(-reach, reach + 1)])
    rest = count - expected.sum(), count - seen.sum()
    statistic = ((seen - expected) ** 2 / expected).sum() + (rest[1] - rest[0]) ** 2 / rest[0]
    degrees = 2 * reach + 1
    assert abs(statistic - degrees) < 5 * math.sqrt(2 * degrees)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("variance", [70.0, 5_000.0, 2.0**26 * 2.5])
def test_moments_are_those_of_the_variance(stream: SecureStream, noise: str, variance: float) -> None:
    count = 100_000
    drawn = share(noise, count, variance, stream).astype(float)
    assert abs(drawn.mean()) < 5 * math.sqrt(variance / count)
    assert abs(drawn.var() / variance - 1) < 5 * math.sqrt(2 / count) + 0.01
    assert abs((drawn**4).mean() / variance**2 - 3) < 0.2
    # Neighbours are unrelated.
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 5 / math.sqrt(count)


def test_sums_of_shares_are_the_noise_of_the_summed_variance() -> None:
    # Ten shares of variance 64: Skellam exactly, the discrete Gaussian to what floats resolve.
    reach = 120
    for make in PMFS.values():
        part, whole = make(64.0), make(640.0)
        one = np.array([float(part(abs(k))) for k in range(-reach, reach + 1)])
        total = one
        for _ in range(9):
            total = np.convolve(total, one)
        for k in (0, 1, 17, 60, 100):
            assert total[10 * reach + k] == pytest.approx(float(whole(k)), rel=1e-9)


@pytest.mark.parametrize(
    ("noise", "variance"),
    [
        (SKELLAM, 0.0),
        (SKELLAM, -1.0),
        (SKELLAM, math.inf),
        (SKELLAM, math.nan),
        (DISCRETE_GAUSSIAN, 63.9),
        (DISCRETE_GAUSSIAN, math.inf),
        (DISCRETE_GAUSSIAN, math.nan),
        ("laplace", 100.0),
    ],
)
def test_noise_that_cannot_be_is_refused(stream: SecureStream, noise: str, variance: float) -> None:
    with pytest.raises(PrivacyError, match="Expected"):
        share(noise, 3, variance, stream)


@pytest.mark.parametrize("noise", NOISES)
def test_no_numbers_are_no_numbers(stream: SecureStream, noise: str) -> None:
    assert share(noise, 0, 100.0, stream).shape == (0,)


def test_weights_of_zero_are_never_drawn(stream: SecureStream) -> None:
    assert set(table_of([0, 1, 0, 1]).draw(1000, stream).tolist()) == {-3, -1, 1, 3}


@pytest.mark.parametrize("variance", [1.0, 50.0])
def test_tail_bound_holds(variance: float) -> None:
    pmf = skellam_pmf(variance)
    for reach in (5, 20, 60):
        tail = 2 * mpmath.fsum(pmf(k) for k in range(reach, reach + 200))
        assert mpmath.log(tail) <= skellam_tail(reach, variance)


def test_stream_is_aes_256_in_counter_mode() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    block = Cipher(algorithms.AES256(KEY), modes.ECB()).encryptor()
    expected = b"".join(block.update(counter.to_bytes(16, "big")) for counter in range(3))
    assert stream_of_key(KEY).words(6).tobytes() == np.frombuffer(expected, dtype="<u8").astype(np.uint64).tobytes()


def test_streams_differ_and_never_repeat() -> None:
    one = SecureStream()
    words = np.concatenate([one.words(1000), one.words(1000), SecureStream().words(1000)])
    assert len(np.unique(words)) == 3000


def test_signs_are_fair(stream: SecureStream) -> None:
    signs = stream.signs(100_001)
    assert set(signs.tolist()) == {-1, 1}
    assert abs(signs.mean()) < 5 / math.sqrt(len(signs))


def test_a_forked_process_draws_another_stream(stream: SecureStream) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, stream.words(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(read, 32), dtype=np.uint64)
    os.close(read)
    os.close(write)
    assert set(theirs.tolist()).isdisjoint(stream.words(4).tolist())


def test_stream_shows_nothing_and_is_not_copied(stream: SecureStream) -> None:
    assert repr(stream) == "SecureStream(***)"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(stream)
