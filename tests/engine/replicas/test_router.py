"""The choice of a replica for each request, against lists."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mindspore_paged.engine.replicas.router import ReplicaRouter

# Hashes are prompts' own beginnings here, so that the model below can read them.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=9).map(tuple)
events = st.lists(
    st.one_of(
        st.tuples(st.just("route"), prompts, st.integers(1, 12)),
        st.tuples(st.just("advance"), st.integers(0, 99), st.integers(0, 3)),
        st.tuples(st.just("finish"), st.integers(0, 99), st.none()),
    ),
    max_size=60,
)


@example([("route", (token,) * 5, 1) for token in (0, 1, 0)], 1, 3)  # a prefix loses its end first
@given(events=events, num_replicas=st.integers(1, 4), known_blocks=st.integers(0, 6))
@settings(deadline=None)
def test_the_router_against_lists(events, num_replicas, known_blocks):
    router = ReplicaRouter(num_replicas, 2, known_blocks)
    known = [[] for _ in range(num_replicas)]  # names, the one used last at the end
    under_way = {}  # id -> replica, prompt tokens to compute, output tokens expected, output tokens there
    for number, (kind, what, amount) in enumerate(events):
        if kind == "route":
            names = [what[:end] for end in range(2, len(what) + 1, 2)]
            costs = []
            for replica in range(num_replicas):
                load = sum(left(r) for r in under_way.values() if r[0] == replica)
                found = 0
                while found < (len(what) - 1) // 2 and names[found] in known[replica]:
                    found += 1
                costs.append((load - 2 * found, load, replica, 2 * found))
            *_, replica, found = min(costs)
            assert router.route(str(number), names, len(what), amount) == replica
            under_way[str(number)] = [replica, len(what) - found, amount, 0]
            for name in names[:known_blocks][::-1]:
                known[replica] = [other for other in known[replica] if other != name] + [name]
            known[replica] = known[replica][max(0, len(known[replica]) - known_blocks) :]
        elif under_way:
            request_id = sorted(under_way)[what % len(under_way)]
            if kind == "advance":
                router.advance(request_id, amount)
                under_way[request_id][3] += amount
            else:
                router.finish(request_id)
                del under_way[request_id]
        assert router.loads == [
            sum(left(route) for route in under_way.values() if route[0] == replica) for replica in range(num_replicas)
        ]


def left(route) -> int:
    _, prompt, expected, there = route
    return (0 if there else prompt) + max(1, expected - there)
