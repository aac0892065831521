"""The way in, and what every page is made of."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

from .example import ExampleProcess

PAGES = ("/chat/", "/rooms/", "/board/", "/payments/")


async def test_the_home_page_leads_to_all(tmp_path: Path) -> None:
    async with ExampleProcess(tmp_path / "one") as one:
        status, home = await one.fetch("/")
        assert status == 200
        assert set(re.findall(r'class="card" href="([^"]+)"', home)) == set(PAGES)
        assert "memory://" in home
        files = set()
        for path in PAGES:
            status, page = await one.fetch(path)
            assert status == 200
            assert 'href="/"' in page
            files |= set(re.findall(r'(?:href|src)="([^"]+\.(?:css|js|svg))"', page))
        assert {path for path in files if "home" in path} == {
            "/static/home/style.css",
            "/static/home/icon.svg",
        }
        assert len([path for path in files if path.endswith(".js")]) == 3
        for path in files:
            status, content = await one.fetch(path)
            assert status == 200
            assert content
            for imported in re.findall(r'^import .* from "([^"]+)"', content, re.MULTILINE):
                assert (await one.fetch(urljoin(path, imported)))[0] == 200


async def test_passwords_are_not_shown(tmp_path: Path) -> None:
    url = "redis://somebody:secret@127.0.0.1:1/0"
    async with ExampleProcess(tmp_path / "one", url) as one:
        _, home = await one.fetch("/")
        assert "redis://…@127.0.0.1:1/0" in home
        assert "secret" not in home + one.banner
