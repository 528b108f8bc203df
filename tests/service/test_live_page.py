"""The reference client: its functions give what `core.live` gives; its page loads nothing else."""

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jaxrec.core.live.composition import compose
from jaxrec.core.live.states import STATES, DeviceState, Message, Seq, advance, apply, store_content, view

PAGE = (Path(__file__).resolve().parents[2] / "jaxrec/service/live.html").read_text()
NODE = shutil.which("node")
SCRIPT = """
const cases = JSON.parse(require("fs").readFileSync(0));
const shown = cases.views.map(({ messages, contents, clocks }) => {
  const kept = messages.reduce(join, []);
  return [kept.length, ...clocks.map((clock) => Object.values(view(kept, new Set(contents), clock)))];
});
console.log(JSON.stringify([shown, cases.slates.map(({ slates, watched }) => compose(slates, watched))]));
"""


def views(rng):
    """Return random messages in any order, some twice and some of a state that is unknown, and the views."""
    states = [*STATES, "paused"]
    times = [rng.choice([0.0, 0.0, 30.0, 60.0]) for _ in range(rng.randint(1, 9))]
    messages = [
        Message("a", Seq(1 + i // 6, i % 6), float(10 * i), rng.choice(states), not_before)
        for i, not_before in enumerate(times)
    ]
    messages = rng.sample(messages, len(messages)) + messages[:2]
    contents, clocks = rng.sample(STATES[1:], 3), [0.0, 29.0, 31.0, 100.0]
    device = DeviceState()
    for stage in contents:
        device = store_content(device, "a", stage)
    for message in messages:
        device = apply(device, message)
    shown = [view(advance(device, clock), "a") for clock in clocks]
    case = {"messages": [m.to_json() for m in messages], "contents": contents, "clocks": clocks}
    return case, [len(device.messages["a"]), *([v.state, v.reason, v.missing] for v in shown)]


def slates(rng):
    """Return slates of some events, and what a device displays."""
    made, number = [], rng.randint(3, 6)
    for event in "XYZ"[: rng.randint(1, 3)]:
        slot = rng.randint(1, number)
        ranked = rng.sample("abcdefghijk", 11)
        titles = [*ranked[: slot - 1], event, *ranked[slot - 1 : number - 1]]
        made.append(
            {"titles": titles, "spare": ranked[number - 1 :][:2], "slots": [{"title": event, "slot": slot}]}
        )
    watched = rng.sample("abcdefghijk", rng.randint(0, 9))
    return {"slates": made, "watched": watched}, compose(made, watched)


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_functions_of_the_page_are_those_of_the_package():
    rng = random.Random(0)
    of_views, of_slates = ([make(rng) for _ in range(500)] for make in (views, slates))
    functions = re.search(r"// states: begin.*// states: end", PAGE, re.DOTALL)[0]
    cases = {"views": [case for case, _ in of_views], "slates": [case for case, _ in of_slates]}
    done = subprocess.run(
        [NODE, "-e", functions + SCRIPT], input=json.dumps(cases), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    shown, composed = json.loads(done.stdout)
    assert shown == [expected for _, expected in of_views]
    assert composed == [expected for _, expected in of_slates]


def test_the_page_loads_nothing_else():
    assert not re.search(r"https?://|<link|src=", PAGE)
    assert {*re.findall(r'fetch\("([^"]+)"', PAGE)} == {"/v1/slates", "/v1/live"}


# A browser's objects, as far as the page reads them; timers are noted and never fire.
BROWSER = """
const waits = [], paths = [];
const element = () => ({ value: "", textContent: "", replaceChildren() {} }), elements = {};
globalThis.document = { getElementById: (id) => elements[id] ??= element(), createElement: element };
globalThis.setInterval = () => {};
globalThis.setTimeout = (_, wait) => { waits.push(wait); };
globalThis.fetch = (path) => { paths.push(path); return new Promise(() => {}); };
Math.random = () => 0.25;
"""
RECAP = """
catalogue = { events: [{ id: "a", stages: ["ended"] }] };
const ended = { event: "a", seq: [1, 1], ts: 1, state: "ended", not_before: 0 };
receive(`id: 1\\ndata: ${JSON.stringify(ended)}`);
draw();
console.log(JSON.stringify([waits, paths]));
"""


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_a_device_fetches_a_slate_that_all_devices_lack_within_a_window():
    """The recap is withheld until the end: without a window all devices would ask for it at that moment."""
    script = re.search(r"<script>(.*)</script>", PAGE, re.DOTALL)[1]
    done = subprocess.run([NODE, "-e", BROWSER + script + RECAP], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    waits, paths = json.loads(done.stdout)
    assert waits == [2_500] and paths == ["/v1/slates"]  # the list of events alone; once for two draws


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_script_of_the_page_is_valid(tmp_path):
    (tmp_path / "page.js").write_text(re.search(r"<script>(.*)</script>", PAGE, re.DOTALL)[1])
    done = subprocess.run([NODE, "--check", tmp_path / "page.js"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
