"""Bodies of requests: whole, bounded in size and time, or refused with the reason."""

import asyncio

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError

from p2pnodes.api.errors import ApiError
from p2pnodes.model.codes import Code


async def read_body(request: web.Request, *, bytes_max: int, timeout_s: float) -> bytes:
    """Read a whole body.

    Args:
        request: Its application's ``client_max_size`` must be ``bytes_max``.
        bytes_max: Longest body that is read.
        timeout_s: Seconds within which it must have arrived.

    Raises:
        ApiError: 413, 408, or 400 when HTTP cannot tell its end.
    """
    if (request.content_length or 0) > bytes_max:
        raise too_large(bytes_max)
    try:
        if request.content.is_eof():  # all of it is here, as it mostly is: no timer is needed
            return await request.read()
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large(bytes_max) from error
    except TimeoutError as error:
        raise late() from error
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise misframed() from error


def too_large(bytes_max: int) -> ApiError:
    """413."""
    return ApiError(413, f"Request body is too large: at most {bytes_max} bytes are allowed.", code=Code.API_TOO_LARGE)


def late() -> ApiError:
    """408: the connection ends with it, as nobody knows where the next request would begin."""
    return ApiError(
        408, "The request body did not arrive in time.", {hdrs.CONNECTION: "close"}, code=Code.API_BODY_LATE
    )


def misframed() -> ApiError:
    """400: a chunk that is none, or a connection that ended in the middle."""
    return ApiError(400, "The request body is not framed as HTTP wants it.", code=Code.API_BODY_LATE)
