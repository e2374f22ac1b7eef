"""Files by HTTP from a server that does everything wrong, and right."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from socket import create_server
from threading import Thread

import pytest

from tidewaiter.service.download import DownloadError, Limits, Validators, download
from webserver import Web, web_server

NONE, DEFAULT = Validators(), Limits()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as made:
        yield made


def fails(url: str, limits: Limits = DEFAULT) -> str:
    """The sentence of a download that must fail, without the URL that it begins with."""
    with pytest.raises(DownloadError) as error:
        download(url, BytesIO(), NONE, limits)
    sentence = str(error.value)
    assert sentence.startswith(f"{url} ")
    return sentence.removeprefix(f"{url} ")


def test_a_file_comes_with_how_to_ask_for_the_next(web: Web) -> None:
    web.text(b"hello", ETag='"1"', Last_Modified="Sat, 21 Nov 2026 10:00:00 GMT")
    file = BytesIO()
    found = download(web.url(), file, NONE, Limits())
    assert file.getvalue() == b"hello"
    assert found == Validators('"1"', "Sat, 21 Nov 2026 10:00:00 GMT")
    assert "If-None-Match" not in web.asked[0]


def test_what_is_known_is_not_sent_again(web: Web) -> None:
    web.text(b"", status=304)
    assert download(web.url(), BytesIO(), Validators('"1"', "then"), Limits()) is None
    assert web.asked[0]["If-None-Match"] == '"1"'
    assert web.asked[0]["If-Modified-Since"] == "then"


def test_nothing_new_is_no_answer_to_who_knows_nothing(web: Web) -> None:
    web.text(b"", status=304)
    assert fails(web.url()) == "answers 304 Not Modified"


def test_chunks_are_put_together(web: Web) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")

    web.answers["/list"] = answer
    file = BytesIO()
    download(web.url(), file, NONE, Limits())
    assert file.getvalue() == b"hello"


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (404, "answers 404 Not Found"),
        (503, "answers 503 Service Unavailable"),
        (204, "answers 204 No Content, which brings no file"),
        (302, "answers 302 Found"),
    ],
)
def test_other_answers_are_told(web: Web, status: int, sentence: str) -> None:
    web.text(b"", status=status)
    assert fails(web.url()) == sentence


def test_a_huge_file_is_not_begun_or_not_ended(web: Web) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        while not web.over.is_set():
            request.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")

    web.answers["/endless"] = endless
    web.text(bytes(100_001), "/told")
    limits = Limits(size=100_000)
    assert fails(web.url("/endless"), limits) == "is longer than 100,000 bytes"
    assert fails(web.url("/told"), limits) == "is longer than 100,000 bytes"


@pytest.mark.parametrize("where", ["headers", "body", "nothing", "redirect"])
def test_a_slow_server_is_not_waited_for(web: Web, where: str) -> None:
    def slow(request: BaseHTTPRequestHandler) -> None:
        if where == "body":
            request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        elif where == "redirect":
            request.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /list\r\nContent-Length: 1000000\r\n")
        while not web.over.wait(0.02):
            if where != "nothing":
                request.wfile.write(b"x")

    web.answers["/list"] = slow
    assert fails(web.url(), Limits(seconds=0.5)) == "took longer than 0.5 seconds"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf", "was cut short: 996 bytes are missing"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nhalf",
            "cannot be read: IncompleteRead",
        ),
        (
            b"HTTP/1.1 200 OK\r\n\r\nhow long is this?",
            "does not say how long it is, so it could be cut short unnoticed",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc",
            "comes in the encoding 'gzip'",
        ),
        (b"what is this\r\n\r\n", "cannot be read: what is this"),
        (b"", "cannot be read: Remote end closed connection without response"),
        (
            b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 70000,
            "cannot be read: got more than 65536 bytes when reading",
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n", "cannot be read: got more than 100 headers"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
            "is redirected to file, which is neither",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: //[bad/\r\n\r\n", "cannot be read: Invalid IPv6 URL"),
    ],
)
def test_a_broken_answer_is_told(web: Web, answer: bytes, sentence: str) -> None:
    web.answers["/list"] = lambda request: request.wfile.write(answer)
    assert fails(web.url()).startswith(sentence)


def test_redirects_are_followed_so_far(web: Web) -> None:
    for number in range(8):
        web.text(b"", f"/{number}", status=302, Location=f"{number + 1}")
    web.text(b"hello", "/5")
    file = BytesIO()
    download(web.url("/0"), file, NONE, Limits())
    assert file.getvalue() == b"hello"
    web.text(b"", "/5", status=301, Location="6")
    assert fails(web.url("/0")) == "is redirected more than 5 times"


def test_a_redirect_that_leads_to_itself_ends(web: Web) -> None:
    web.text(b"", status=308, Location="/list")
    assert fails(web.url()) == "is redirected more than 5 times"


def test_where_nobody_listens_that_is_told() -> None:
    with create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert fails(f"http://127.0.0.1:{port}/list") == "cannot be read: Connection refused"


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://127.0.0.1:port/", "http://a b/", "file:///etc/passwd"]
)
def test_what_is_no_url_is_told(url: str) -> None:
    assert fails(url).startswith("cannot be read: ")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=127.0.0.1"
    names = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", f"{path}.crt")
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_is_believed_only_with_a_good_certificate(
    web: Web, certificate: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    answer = f"HTTP/1.1 302 Found\r\nLocation: {web.url()}\r\nContent-Length: 0\r\n\r\n".encode()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(answer)
            except OSError:
                pass  # the client does not believe us

    with create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=serve)
        thread.start()
        sentence = fails(f"https://127.0.0.1:{server.getsockname()[1]}/list")
        thread.join()
    expected = (
        "is redirected from https to http" if trusted else "cannot be read: [SSL: CERTIFICATE_VERIFY_FAILED]"
    )
    assert sentence.startswith(expected)
