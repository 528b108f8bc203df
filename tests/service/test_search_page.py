"""The search box of the demo page in a browser: a search at every letter, shown in the order of letters."""

import json

PATH = "/v1/search"


def test_the_box_searches_at_every_letter(start, searching, browser):
    _, address = start(searching, "--max_batch", 1)
    for width in (1280, 480):
        page = browser.new_page(viewport={"width": width, "height": 900})
        search_and_pick(page, address)
        page.close()


def matches(page):
    """Return the titles that the box shows, in their order."""
    return page.locator("#matches li span").all_inner_texts()


def type_text(page, text):
    """Replace the text of the box, and return the titles of its search once the page shows the answer."""
    with page.expect_response(
        lambda r: r.url.endswith(PATH) and sent(r.request)["query"] == text
    ) as response:
        page.locator("#query").fill(text)
    titles = [title["title"] for title in response.value.json()["titles"]]
    page.wait_for_function(
        "titles => [...document.querySelectorAll('#matches li span')]"
        ".every((row, i) => row.innerText.includes(titles[i]))"
        " && document.querySelectorAll('#matches li').length === titles.length",
        arg=[str(title) for title in titles],
    )
    return matches(page)


def sent(request):
    return json.loads(request.post_data)


def is_search(response, text):
    return response.url.endswith(PATH) and sent(response.request)["query"] == text


def search_and_pick(page, address):
    """Search by two letters, by another script, and with a picked title; then empty the box."""
    errors, searches = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda r: searches.append(sent(r)) if r.url.endswith(PATH) else None)
    page.goto(address)
    page.wait_for_selector("#titles li")
    assert page.locator("#searching").is_visible() and matches(page) == [] and searches == []
    page.locator("#query").press_sequentially("ba")
    page.wait_for_selector("#matches li")
    assert [search["query"] for search in searches] == ["b", "ba"]
    assert len(type_text(page, "поиск \U0001f600")) == 8
    two_letters = type_text(page, "ba")
    assert len(set(two_letters)) == 8 and not page.locator("#error").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page is cut"
    with page.expect_response(lambda r: r.url.endswith(PATH)):  # the matches are those of the new history
        page.locator("#matches button").first.click()
    assert page.locator("#history span").first.inner_text() == two_letters[0]
    assert len(searches[-1]["history"]) == 1 and searches[-1]["query"] == "ba"
    hold_back(page, address)
    page.locator("#query").fill("")
    page.wait_for_function("document.querySelectorAll('#matches li').length === 0")
    assert errors == [] and not page.locator("#error").is_visible()


def hold_back(page, address):
    """See that the answer of an earlier letter, which comes later, does not replace that of the last one."""
    waiting = []

    def hold(route):
        if sent(route.request)["query"] == "c":
            waiting.append(route)
        else:
            route.continue_()

    page.route(f"{address}{PATH}", hold)
    page.locator("#query").fill("c")
    last = type_text(page, "co")
    with page.expect_response(lambda r: is_search(r, "c")):
        waiting[0].continue_()
    page.wait_for_timeout(100)  # the page would have drawn the late answer
    assert matches(page) == last
    page.unroute(f"{address}{PATH}")
