"""HostTier over FileTier in any order of calls, against a set of the pages that may, and those that must, be found."""

import shutil
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.cache.host_tier import HostTier
from tests.cache.pages import PAGE_BYTES, flip_bit, format_of, is_page, make_page, name, path_of

FILE_BYTES = 400  # a little more than a page's file

NUMBERS = range(24)
numbers = st.sampled_from(NUMBERS)
places = st.integers(0, 1000)


class Tiers(RuleBasedStateMachine):
    """`may_hold`: put, and not forgotten since. `must_hold`: of these, what nothing can have dropped or damaged.

    With `lossless` the file tier has room for all, and the worker is idle before a put: then nothing is ever dropped,
    and a tier that simply forgot everything would fail. Without it, calls and worker run against each other.
    """

    @initialize(
        host_bytes=st.integers(PAGE_BYTES, 5 * PAGE_BYTES), file_pages=st.integers(1, 5), lossless=st.booleans()
    )
    def open(self, host_bytes, file_pages, lossless):
        self.lossless = lossless
        self.folder = Path(mkdtemp())
        self.capacities = host_bytes, (len(NUMBERS) if lossless else file_pages) * FILE_BYTES
        self.may_hold, self.must_hold = set(), set()
        self.connect()

    def connect(self):
        self.below = FileTier(self.folder, self.capacities[1], format_of())
        self.tier = HostTier(self.capacities[0], self.below)

    def one_of_ours(self, place):
        """A page that may be held; what hypothesis draws must not hang on what the worker happened to do."""
        return sorted(self.may_hold)[place % len(self.may_hold)] if self.may_hold else 0

    def forget(self, number):
        self.may_hold.discard(number)
        self.must_hold.discard(number)

    @rule(number=numbers)
    def put(self, number):
        if self.lossless:
            self.tier.wait_until_idle()
            if number not in self.may_hold:  # else the old content stays, which may be damaged
                self.must_hold.add(number)
        self.tier.put(name(number), make_page(number))
        self.may_hold.add(number)

    @rule(which=places)
    def get(self, which):
        self.get_any(self.one_of_ours(which))

    @rule(number=numbers)
    def get_any(self, number):
        page = self.tier.get(name(number))
        if page is None:
            assert number not in self.must_hold
            self.forget(number)
        else:
            assert number in self.may_hold
            assert is_page(page, number)

    @rule(chain=st.lists(numbers, unique=True))
    def match(self, chain):
        length = self.tier.match([name(number) for number in chain])
        assert set(chain[:length]) <= self.may_hold
        assert length == len(chain) or chain[length] not in self.must_hold

    @rule(chain=st.lists(numbers, unique=True))
    def prefetch(self, chain):
        self.tier.prefetch([name(number) for number in chain])

    @rule(which=places)
    def discard(self, which):
        number = self.one_of_ours(which)
        self.tier.discard(name(number))
        self.forget(number)

    @rule()
    def clear(self):
        self.tier.clear()
        self.may_hold, self.must_hold = set(), set()

    @rule()
    def idle(self):
        self.tier.wait_until_idle()

    @rule(which=places, place=places, use_it_now=st.booleans())
    def damage_memory(self, which, place, use_it_now):
        number = self.one_of_ours(which)
        self.tier.wait_until_idle()
        held = self.tier._held.look_up(name(number))
        if held is None:
            return
        damaged = make_page(number)
        damaged.reshape(-1).view("u1")[place % PAGE_BYTES] ^= 1
        damaged.flags.writeable = False
        held.page = damaged
        self.must_hold.discard(number)
        if use_it_now:
            assert self.tier.get(name(number)) is None
            assert self.tier.match([name(number)]) == 0
            self.forget(number)

    @rule(which=places, place=places)
    def damage_file(self, which, place):
        number = self.one_of_ours(which)
        self.tier.wait_until_idle()
        path = path_of(self.below, number)
        if path.exists():
            content = path.read_bytes()
            path.write_bytes(flip_bit(content, place % len(content)))
            self.must_hold.discard(number)

    @rule()
    def restart(self):
        """Memory is lost, files are not."""
        self.tier.close()
        self.must_hold = {number for number in self.must_hold if self.below.contains(name(number))}
        self.connect()
        self.may_hold = {number for number in self.may_hold if self.below.contains(name(number))}

    @invariant()
    def books_balance(self):
        self.tier.check_integrity()
        counts = self.tier.statistics()
        assert counts["bytes"] == counts["pages"] * PAGE_BYTES <= self.capacities[0]
        assert counts["errors"] == 0
        with self.tier._file_lock:
            on_disk = sum(path.stat().st_size for path in self.below._folder.iterdir())
            foreign = self.below.statistics()["foreign"]
        assert on_disk <= self.capacities[1] or foreign, "only a file that has become another model's stays uncounted"
        if self.lossless:
            assert counts["dropped"] == 0

    def teardown(self):
        self.tier.close()
        shutil.rmtree(self.folder)


TestTiers = Tiers.TestCase
TestTiers.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
