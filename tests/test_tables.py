"""Bucket storage against a dictionary, its memory, and its state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from slide import hashing
from slide._kernels.tables import Tables

NO_BUCKET = 2**64 - 1


def random_codes(rng, n, code_bits, n_distinct=None):
    """Codes of which some are equal and many share their leading or their last bits."""
    high = (1 << code_bits) - 1
    pool = [int(c) & high for c in rng.integers(0, 2**63, n_distinct or max(1, n // 3))]
    pool += [0, high, high >> 1, 1 & high]
    pool += [c ^ 1 << int(rng.integers(code_bits)) for c in pool]
    return np.array([pool[i] for i in rng.integers(0, len(pool), n)], np.uint64)


def buckets(code_of_item):
    out = {}
    for item, code in enumerate(code_of_item):
        if int(code) != NO_BUCKET:
            out.setdefault(int(code), set()).add(item)
    return out


def exact(tables):
    """Whether the documented layout keeps all of a code's bits: slots and tags of 8."""
    return tables.code_bits <= max(1, tables.n_items.bit_length() - 3) + 8


@given(
    seed=seeds,
    n_items=st.integers(1, 300),
    code_bits=st.integers(1, 63),
    n_tables=st.integers(1, 3),
    n_moves=st.integers(0, 5),
    nowhere=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_buckets_are_those_of_a_dictionary(seed, n_items, code_bits, n_tables, n_moves, nowhere):
    rng = np.random.default_rng(seed)
    tables = Tables(n_items, n_tables, code_bits, 0, 2)
    codes = [random_codes(rng, n_items, code_bits) for _ in range(n_tables)]
    for table in range(n_tables):
        tables.move(table, codes[table])
    for _ in range(n_moves):
        table = int(rng.integers(n_tables))
        items = rng.permutation(n_items)[: rng.integers(0, n_items + 1)].astype(np.int32)
        new = random_codes(rng, len(items), code_bits)
        if nowhere:
            new[rng.random(len(items)) < 0.3] = NO_BUCKET
        codes[table][items] = new
        tables.move(table, new, items)
    for table in range(n_tables):
        wanted = buckets(codes[table])
        assert tables.sizes(table).sum() == sum(map(len, wanted.values()))
        for code in [*wanted, *random_codes(rng, 5, code_bits)]:
            found = tables.bucket(table, int(code)).tolist()
            members = wanted.get(int(code), set())
            assert len(set(found)) == len(found)
            if exact(tables):
                assert set(found) == members
            else:
                assert set(found) >= members


@given(seed=seeds, n_items=st.integers(1, 200), n_slots=st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_numbered_slots_are_exact(seed, n_items, n_slots):
    rng = np.random.default_rng(seed)
    tables = Tables(n_items, 1, 0, n_slots, 1)
    codes = rng.integers(0, n_slots, n_items).astype(np.uint64)
    tables.move(0, codes)
    items = np.flatnonzero(rng.random(n_items) < 0.3).astype(np.int32)
    codes[items] = rng.integers(0, n_slots, len(items))
    tables.move(0, codes[items], items)
    counts = np.bincount(codes.astype(int), minlength=n_slots)
    np.testing.assert_array_equal(tables.sizes(0), counts)
    for slot in range(n_slots):
        assert set(tables.bucket(0, slot)) == set(np.flatnonzero(codes == slot))


@pytest.mark.parametrize("code_bits", [24, 32, 63])
@pytest.mark.parametrize("dense", [False, True])
def test_strangers_are_no_more_than_the_tags_let_pass(code_bits, dense):
    # Codes of 2,048 items in 2^(12-3) slots, hence 4 others in a slot, each taken for a member
    # with probability 2^-8. Neighbouring codes must be as good as random ones.
    n = 2048
    rng = np.random.default_rng(code_bits)
    strangers = asked = 0
    for _ in range(20):
        codes = rng.choice(1 << 20, n, replace=False).astype(np.uint64)
        if not dense:
            codes = np.unique(rng.integers(0, 1 << code_bits, 2 * n, dtype=np.uint64))
            codes = rng.permutation(codes)[:n]
        tables = Tables(n, 1, code_bits, 0, 1)
        assert not exact(tables)
        tables.move(0, codes)
        slots = len(tables.sizes(0))
        for item in range(0, n, 2):
            found = tables.bucket(0, int(codes[item]))
            assert item in found
            strangers += len(found) - 1
            asked += 1
    rate = n / slots / 2**8
    assert strangers / asked <= rate + 4.5 * np.sqrt(rate / asked)


def test_no_item_is_lost_when_all_have_one_code():
    for code_bits in range(1, 64):
        tables = Tables(50, 1, code_bits, 0, 1)
        tables.move(0, np.full(50, (1 << code_bits) - 1, np.uint64))
        assert sorted(tables.bucket(0, (1 << code_bits) - 1)) == list(range(50))
        assert tables.sizes(0).max() == 50


@pytest.mark.parametrize("code_bits", [1, 7, 14, 63])
def test_items_without_a_bucket_are_in_none_until_they_move(code_bits):
    tables = Tables(40, 2, code_bits, 0, 1)
    codes = np.zeros(40, np.uint64)
    codes[::2] = NO_BUCKET
    tables.move(0, codes)
    assert sorted(tables.bucket(0, 0)) == list(range(1, 40, 2))
    assert len(tables.bucket(0, NO_BUCKET)) == 0
    tables.move(0, np.full(40, NO_BUCKET, np.uint64))
    assert tables.sizes(0).sum() == 0
    tables.move(0, np.zeros(3, np.uint64), [4, 2, 7])
    assert sorted(tables.bucket(0, 0)) == [2, 4, 7]
    assert tables.sizes(1).sum() == 0


# ------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("n_items", [16, 100, 1023, 1024, 13_043, 100_000])
@pytest.mark.parametrize("code_bits", [1, 6, 9, 12, 18, 20, 24, 36, 54, 63])
def test_tables_take_at_most_6_bytes_an_item(n_items, code_bits):
    tables = Tables(n_items, 3, code_bits, 0, 1)
    state = tables.get_state()
    assert tables.nbytes == sum(array.nbytes for array in state.values())
    assert tables.nbytes <= (6 * n_items + 8) * 3


@pytest.mark.parametrize("n_neurons", [13_043, 100_000])
@pytest.mark.parametrize(
    "family",
    [
        hashing.SimHash(6, 20),
        hashing.SimHash(9, 50),
        hashing.SimHash(16, 8),
        hashing.SimHash(62, 4),
        hashing.DWTA(6, 50),
        hashing.DWTA(2, 10, 2),
        hashing.DWTA(20, 4, 4),
        hashing.Clusters(),
        hashing.Clusters(512, 4),
        hashing.Clusters(2000, 3, n_groups=40),
    ],
    ids=repr,
)
def test_all_families_take_at_most_6_bytes_a_neuron_and_table(family, n_neurons):
    tables = family.retriever(n_neurons, 129, 0, 1).tables
    assert tables.n_tables == family.n_tables
    assert tables.nbytes <= (6 * n_neurons + 8) * family.n_tables


# ------------------------------------------------------------------------------------- state


@pytest.mark.parametrize(("code_bits", "n_slots"), [(5, 0), (12, 0), (40, 0), (0, 9)])
def test_state_comes_back(code_bits, n_slots):
    rng = np.random.default_rng(0)
    old, new = Tables(200, 3, code_bits, n_slots, 2), Tables(200, 3, code_bits, n_slots, 1)
    codes = rng.integers(0, n_slots or 1 << code_bits, (3, 200), dtype=np.uint64)
    if code_bits:
        codes[1, 5:9] = NO_BUCKET
    for table in range(3):
        old.move(table, codes[table])
    state = old.get_state()
    new.set_state(state)
    for name, array in new.get_state().items():
        np.testing.assert_array_equal(array, state[name])
    items = np.array([7, 0, 6], np.int32)
    for tables in (old, new):
        tables.move(1, codes[0, :3], items)
        for code in map(int, codes[0, :3]):
            np.testing.assert_array_equal(tables.bucket(1, code), old.bucket(1, code))
    assert (state["ids"] != new.get_state()["ids"]).any()  # a copy, not a view


def damaged(name, change):
    def damage(state):
        state[name] = change(state[name].copy())

    return damage


def with_value(index, value):
    def change(array):
        array[index] = value
        return array

    return change


def doubled(ids):
    ids[1, 3] = ids[1, 4]
    return ids


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damaged("ids", with_value((0, 0), -1)), "table [01] has an id twice, or out of range"),
        (damaged("ids", with_value((1, 99), 100)), "table [01] has an id twice, or out of range"),
        (damaged("ids", doubled), "table 1 has an id twice"),
        (damaged("ids", lambda a: a[:1]), r"ids is int32\(1, 100\), not int32\(2, 100\)"),
        (damaged("ids", lambda a: a.astype(np.int64)), "ids is int64"),
        (damaged("ids", lambda a: a[:, :-1]), "ids is"),
        (damaged("starts", with_value((0, 0), 1)), "starts do not ascend"),
        (damaged("starts", with_value((1, 3), 10**6)), "starts do not ascend"),
        (damaged("starts", with_value((1, -1), 101)), "table 1 has an id twice, or out"),
        (damaged("starts", with_value((0, 4), -5)), "starts do not ascend"),
        (damaged("starts", lambda a: a[:, 1:]), "starts is int32"),
        (damaged("tags", lambda a: a.astype(np.int8)), "tags is int8"),
        (damaged("tags", lambda a: a.T), "tags is"),
    ],
)
def test_damaged_state_is_refused_and_changes_nothing(damage, words):
    tables = Tables(100, 2, 12, 0, 1)
    rng = np.random.default_rng(0)
    for table in range(2):
        tables.move(table, rng.integers(0, 1 << 12, 100, dtype=np.uint64))
    before = tables.get_state()
    state = tables.get_state()
    damage(state)
    with pytest.raises(ValueError, match=words):
        tables.set_state(state)
    for name, array in tables.get_state().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("name", ["ids", "starts", "tags"])
def test_missing_state_is_refused(name):
    tables = Tables(100, 2, 12, 0, 1)
    state = tables.get_state()
    del state[name]
    with pytest.raises(KeyError, match=name):
        tables.set_state(state)


def test_moves_that_cannot_be_are_refused():
    tables = Tables(10, 2, 5, 0, 1)
    zeros = np.zeros(10, np.uint64)
    for table in (-1, 2):
        with pytest.raises(IndexError, match=f"table {table} of 2"):
            tables.move(table, zeros)
        with pytest.raises(IndexError, match=f"table {table} of 2"):
            tables.bucket(table, 0)
        with pytest.raises(IndexError, match=f"table {table} of 2"):
            tables.sizes(table)
    with pytest.raises(ValueError, match="9 codes for 10 items"):
        tables.move(0, zeros[:9])
    with pytest.raises(ValueError, match=r"items\[1\] is 10"):
        tables.move(0, zeros[:2], [0, 10])
    with pytest.raises(ValueError, match=r"items\[0\] is -1"):
        tables.move(0, zeros[:1], [-1])
    with pytest.raises(ValueError, match=r"items\[2\] is 3: twice"):
        tables.move(0, zeros[:3], [3, 1, 3])
    with pytest.raises(ValueError, match=r"codes\[1\] is 32"):
        tables.move(0, np.array([31, 32], np.uint64), [0, 1])
    with pytest.raises(IndexError, match="code 32"):
        tables.bucket(0, 32)
    assert tables.sizes(0).sum() == 0
