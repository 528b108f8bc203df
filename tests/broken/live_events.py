"""Lines of live events: the join of messages, clocks, seqs, the plan, queues, retries and displays."""

from tests.broken.line import Line

_STATES = "tests/core/test_live_states.py"
_PLAN = "tests/live_events/test_live_planning.py"
_FLEET = "tests/live_events/test_live_fleet.py"
_COHORTS = "tests/live_events/test_live_cohorts.py"

LINES = (
    Line(
        "a message is void only if the newer one of its state begins no later",
        "jaxrec/core/live/states.py",
        "            and message.not_before <= other.not_before\n",
        "",
        (f"{_STATES}::test_the_properties_of_schedules",),
    ),
    Line(
        "a clock that is set back takes nothing back",
        "jaxrec/core/live/states.py",
        " if clock > device.clock else device",
        "",
        (f"{_STATES}::test_the_properties_of_schedules",),
    ),
    Line(
        "seqs order messages before their times do",
        "jaxrec/core/live/states.py",
        "return (*self.seq, self.ts, self.state, self.not_before)",
        "return (self.ts, *self.seq, self.state, self.not_before)",
        (f"{_STATES}::test_a_producer_that_takes_over_is_newer_although_messages_and_time_were_lost",),
    ),
    Line(
        "a message is not in force before its time",
        "jaxrec/core/live/states.py",
        "if m.not_before <= clock), None)",
        "), None)",
        (f"{_STATES}::test_the_properties_of_schedules",),
    ),
    Line(
        "the last good slate is of a message that was in force when the lacking one was written",
        "jaxrec/core/live/states.py",
        "since = min(device.clock, max(message.ts, message.not_before))",
        "since = device.clock",
        (f"{_STATES}::test_an_old_version_keeps_its_last_good_slate_and_gives_the_reason",),
    ),
    Line(
        "a producer that takes over has a larger epoch",
        "jaxrec/core/live/producer.py",
        "epoch=max([epoch, *known]) + 1",
        "epoch=max([epoch, *known])",
        (f"{_STATES}::test_a_producer_that_takes_over_is_newer_although_messages_and_time_were_lost",),
    ),
    Line(
        "a plan exceeds no capacity",
        "jaxrec/live_events/planning.py",
        "    if violations(config, plan_of(longest)):\n",
        "    if False:\n",
        (f"{_PLAN}::test_the_window_ends_where_the_service_bears_no_more",),
    ),
    Line(
        "the fill waits for the origin of many slates",
        "jaxrec/live_events/equations.py",
        "return max(by_service, kappa * len(config.audience.regions) / config.capacity.origin)",
        "return by_service",
        (f"{_PLAN}::test_the_binding_capacity",),
    ),
    Line(
        "the jitter is drawn for each refresh",
        "jaxrec/live_events/fleet/prefetching.py",
        "draw(config.seed, Drawn.TTL, devices, number)",
        "draw(config.seed, Drawn.TTL, devices, 0)",
        (f"{_FLEET}::test_jitter_of_each_refresh_spreads_what_was_alike",),
    ),
    Line(
        "requests of a bin keep their order",
        "jaxrec/live_events/fleet/requests.py",
        "        return times[order], devices[order], attempts[order]\n",
        "        return times, devices, attempts\n",
        (f"{_FLEET}::test_requests_of_a_bin_are_served_in_their_order",),
    ),
    Line(
        "retries have jitter",
        "jaxrec/live_events/fleet/requests.py",
        "return bounds * draw(seed, Drawn.BACKOFF, devices, attempts) if retries.jitter else bounds",
        "return bounds",
        (f"{_FLEET}::test_retries_without_jitter_rebuild_the_herd",),
    ),
    Line(
        "a display waits for not_before on the device's clock",
        "jaxrec/live_events/fleet/displays.py",
        "np.maximum(one, bound - clocks)",
        "one",
        (f"{_FLEET}::test_displays_are_those_of_the_states",),
    ),
    Line(
        "the message of the largest order is displayed, not the last to arrive",
        "jaxrec/live_events/fleet/displays.py",
        "key=lambda i: timeline.sent[i].message.order)",
        "key=lambda i: timeline.sent[i].message.state)",
        (f"{_FLEET}::test_displays_are_those_of_the_states",),
    ),
    Line(
        "nodes send again to devices that did not acknowledge",
        "jaxrec/live_events/fleet/broadcast.py",
        "            waiting = waiting[~acknowledged]\n",
        "            waiting = waiting[:0]\n",
        (f"{_FLEET}::test_every_fault_ends_with_all_devices_updated_and_no_spoiler",),
    ),
    Line(
        "a device that reconnects gets the log",
        "jaxrec/live_events/fleet/broadcast.py",
        "        arrival[number, missing] = np.minimum(arrival[number, missing], down[1, missing] + delay)\n",
        "",
        (f"{_FLEET}::test_every_fault_ends_with_all_devices_updated_and_no_spoiler",),
    ),
    Line(
        "a gateway that is down refuses devices",
        "jaxrec/live_events/fleet/broadcast.py",
        "np.flatnonzero(times < up)",
        "np.flatnonzero(times < at)",
        (f"{_FLEET}::test_gateways_that_are_down_refuse_devices",),
    ),
    Line(
        "each request of a cut batch is as likely to be taken",
        "jaxrec/live_events/fleet/cohorts.py",
        'part = rng.multivariate_hypergeometric(batch, count, method="marginals")',
        "part = np.diff(np.cumsum(batch) * count // size, prepend=0)",
        (f"{_COHORTS}::test_cohorts_are_as_individuals",),
    ),
)
