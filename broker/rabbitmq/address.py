"""The broker's URL: parsed once, and shown without its password."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed

from broker.errors import MillraceError, Misconfigured, Refused, Unavailable, Unreachable

HEARTBEAT_S = 10
CONNECT_TIMEOUT_S = 10.0
_REFUSED_CREDENTIALS = (pika.exceptions.ProbableAuthenticationError, pika.exceptions.ProbableAccessDeniedError)
_REFUSALS = (403, 405, 406, 530)
_NO_QUEUE = 404
_RESERVED = "reserved prefix"


class NoQueue(Unavailable):
    """The queue or log does not exist."""


@dataclass(frozen=True, slots=True, repr=False)
class RabbitAddress:
    """The parsed URL of a broker."""

    url: str
    shown: str
    user: str

    def __repr__(self) -> str:
        return f"RabbitAddress({self.shown!r})"

    @classmethod
    def of(cls, url: str) -> RabbitAddress:
        """Parse a URL; raises Misconfigured."""
        parameters = _parameters(url)
        scheme = "amqps" if parameters.ssl_options else "amqp"
        host = f"[{parameters.host}]" if ":" in parameters.host else parameters.host
        return cls(url, f"{scheme}://{host}:{parameters.port}", getattr(parameters.credentials, "username", ""))

    def parameters(self, purpose: str) -> pika.connection.Parameters:
        """Return new connection parameters; `purpose` is shown in the broker's management UI."""
        parameters = _parameters(self.url)
        if parameters.heartbeat is None:
            parameters.heartbeat = HEARTBEAT_S
        parameters.stack_timeout = CONNECT_TIMEOUT_S
        parameters.client_properties = {"connection_name": f"millrace {purpose}"}
        return parameters

    def unreachable(self) -> Unreachable:
        """Return the error for a broker that does not answer."""
        return Unreachable(f"no broker answers at {self.shown}: is it running, and is broker.url right?")

    def error(self, reason: BaseException, purpose: str) -> MillraceError:
        """Return the Millrace error for one of pika's; `purpose` begins its text."""
        if isinstance(reason, _REFUSED_CREDENTIALS):
            return Misconfigured(
                f"the broker at {self.shown} refuses the user, the password or the virtual host: is broker.url right?"
            )
        if _is_distrust(reason):
            return Misconfigured(
                f"the certificate of the broker at {self.shown} is not trusted: does broker.url name the host that the "
                "certificate names, and the CA's file, as in amqps://host?cafile=/path/to/ca.pem?"
            )
        if isinstance(reason, pika.exceptions.ConnectionClosedByBroker):
            return Unreachable(f"{purpose}: the broker at {self.shown} closed the connection ({reason.reply_text})")
        if not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            return self.unreachable()
        if reason.reply_code == _NO_QUEUE:
            return NoQueue(f"{purpose}: {reason.reply_text}")
        if _RESERVED in reason.reply_text:
            return Misconfigured(
                f"{purpose}: the broker at {self.shown} refuses it ({reason.reply_text}): change `prefix`"
            )
        if reason.reply_code in _REFUSALS:
            return Refused(f"{purpose}: the broker at {self.shown} refuses it ({reason.reply_text})")
        return Unavailable(f"{purpose}: the broker at {self.shown} closed the channel ({reason.reply_text})")


def _is_distrust(reason: BaseException) -> bool:
    if not isinstance(reason, AMQPConnectionWorkflowFailed):
        return False
    return isinstance(getattr(reason.exceptions[-1], "exception", None), ssl.SSLCertVerificationError)


def _parameters(url: str) -> pika.URLParameters:
    try:
        rest, cafile = _without_cafile(url)
        parameters = pika.URLParameters(rest)
    except (ValueError, TypeError, SyntaxError):
        # The cause may quote the URL with its password.
        raise Misconfigured("broker.url cannot be read: it looks like amqp://user:password@host:5672/vhost") from None
    if cafile is not None:
        parameters.ssl_options = pika.SSLOptions(_context(parameters, cafile))
    if parameters.ssl_options and parameters.ssl_options.server_hostname is None:
        # Without a host name, Python would refuse every certificate.
        parameters.ssl_options.server_hostname = parameters.host
    return parameters


def _without_cafile(url: str) -> tuple[str, str | None]:
    """Return the URL without `cafile`, which pika does not know, and the value of `cafile`."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in query if name != "cafile"])
    return parts._replace(query=rest).geturl(), dict(query).get("cafile")


def _context(parameters: pika.URLParameters, cafile: str) -> ssl.SSLContext:
    if not parameters.ssl_options:
        raise Misconfigured("broker.url names a cafile but does not use TLS: it must begin with amqps://")
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as exc:
        raise Misconfigured(f"broker.url: no certificates can be read from the cafile {cafile!r} ({exc})") from exc
