"""E-mail over SMTP (RFC 5321), by aiosmtplib.

Account: ``base_url`` ``smtp://host:port``, ``smtp+tls://`` (TLS from the start) or ``smtp+starttls://``; secrets
``username`` and ``password`` if the server requires them; settings ``sender``, and ``to`` for notifications to staff.
"""

import asyncio
from email.message import EmailMessage
from email.utils import formatdate
from urllib.parse import urlsplit

import aiosmtplib

from activities.kit.errors import refused, unavailable
from activities.kit.network import open_socket
from models.accounts import AccountFields, secret, setting
from models.intake import Account
from models.notifications import Message

ACCOUNT = AccountFields(
    console="email",
    fields=(
        secret("username", required=False),
        secret("password", required=False, about="smtp_password"),
        setting("sender", required=True),
    ),
    base_url="smtp+tls://{server}:465",
)


async def send(account: Account, message: Message) -> None:
    server = urlsplit(account.base_url)
    mail = EmailMessage()
    mail["From"] = str(account.settings.get("sender", ""))
    mail["To"] = message.to
    mail["Subject"] = message.subject
    mail["Date"] = formatdate()
    mail["Message-ID"] = f"<{message.id.replace(':', '.').replace('@', '.')}@hengdan>"
    mail.set_content(message.body)
    try:
        connection = await asyncio.wait_for(open_socket(server.hostname or "", server.port or 25), 20)
        await aiosmtplib.send(
            mail,
            hostname=server.hostname,
            sock=connection,
            use_tls=server.scheme == "smtp+tls",
            start_tls=server.scheme == "smtp+starttls",
            username=account.secrets.get("username"),
            password=account.secrets.get("password"),
            timeout=20,
        )
    except aiosmtplib.SMTPRecipientsRefused as error:
        codes = [each.code for each in error.recipients]
        if all(code >= 500 for code in codes):
            raise refused("error.refused", str(codes[0]), vendor="email", code=codes[0]) from None
        raise unavailable("error.unavailable", vendor="email", code=codes[0]) from None
    except aiosmtplib.SMTPResponseException as error:
        if error.code >= 500:
            raise refused("error.refused", str(error.code), vendor="email", code=error.code) from None
        raise unavailable("error.unavailable", vendor="email", code=error.code) from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise unavailable("error.unavailable", vendor="email", code=type(error).__name__) from None
