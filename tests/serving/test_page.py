"""The page's files: what they are sent with, and that they ask nobody else for anything."""

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mindspore_paged.serving.page import FOLDER, PATHS, page_router


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    app.include_router(page_router())
    return TestClient(app)


@pytest.mark.parametrize("path", sorted(PATHS))
def test_each_file_is_sent_under_a_policy_that_lets_nothing_else_in(client, path):
    response = client.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


def test_types(client):
    kinds = {path: client.get(path).headers["content-type"].partition(";")[0] for path in PATHS}
    assert kinds == {
        "/": "text/html",
        "/page/page.css": "text/css",
        "/page/page.js": "text/javascript",
        "/page/icon.svg": "image/svg+xml",
    }


def test_other_files_of_the_folder_are_not_sent(client):
    assert client.get("/page/__init__.py").status_code == 404
    assert client.get("/page/..%2fapp.py").status_code == 404


def test_the_bundle_is_whole_and_names_no_other_host():
    html = (FOLDER / "index.html").read_text()
    linked = set(re.findall(r'(?:src|href)="([^"#]+)"', html))
    assert {f"/{name}" for name in linked} == PATHS - {"/"}
    for file in FOLDER.glob("*.*"):
        named = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}\S*", file.read_text())
        assert named == (['http://www.w3.org/2000/svg"'] if file.name == "icon.svg" else []), file.name
    assert "style=" not in html  # the policy would refuse them
    assert not re.search(r"\son[a-z]+=", html)


def test_a_script_never_makes_html_of_text():
    script = (FOLDER / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def test_each_id_that_the_script_asks_for_is_there_once():
    ids = re.findall(r'\bid="([^"]+)"', (FOLDER / "index.html").read_text())
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([^"]+)"\)', (FOLDER / "page.js").read_text())) <= set(ids)


def test_the_package_has_the_files():
    setup = (FOLDER.parents[2] / "setup.py").read_text()
    assert '"mindspore_paged.serving.page": ["*.html", "*.css", "*.js", "*.svg"]' in setup
