"""An offered upgrade is removed from the head of a request."""

from __future__ import annotations

from gateway.transport.upgrade import head_without_upgrade


def test_only_the_offer_is_removed() -> None:
    headers = [
        (b"host", b"x"),
        (b"connection", b"keep-alive, Upgrade, HTTP2-Settings"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AAMAAABk"),
        (b"content-length", b"2"),
    ]
    assert head_without_upgrade(b"POST", b"/v2", "1.1", headers) == (
        b"POST /v2 HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n"
    )
