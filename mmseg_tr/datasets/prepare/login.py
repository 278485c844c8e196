"""Log in to the site of a dataset that is for registered users only."""

from __future__ import annotations

import http.cookiejar
import os
import urllib.error
import urllib.parse
import urllib.request

from mmseg_tr.errors import DatasetError

CITYSCAPES = 'https://www.cityscapes-dataset.com'
USER, PASSWORD = 'CITYSCAPES_USERNAME', 'CITYSCAPES_PASSWORD'


def log_in(site: str = CITYSCAPES) -> urllib.request.OpenerDirector:
    """Return an opener that is logged in to the site of Cityscapes with the user's own credentials.

    They come from the environment variables CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD, are sent in the body of one
    request, and are never written to disk. Raises DatasetError when one is not set, or the site refuses them.
    """
    missing = [name for name in (USER, PASSWORD) if not os.environ.get(name)]
    if missing:
        raise DatasetError(
            f'Cityscapes is for registered users: register at {CITYSCAPES}/register, then set the environment '
            f'variables {USER} and {PASSWORD} ({" and ".join(missing)} not set).'
        )
    form = dict(username=os.environ[USER], password=os.environ[PASSWORD], submit='Login')
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    body = urllib.parse.urlencode(form).encode()
    try:
        urllib.request.build_opener(cookies, _Stay).open(f'{site}/login/', data=body, timeout=60).close()
        refused = True  # the site answers a wrong password with its form again
    except urllib.error.HTTPError as error:
        if error.code not in (302, 303, 401, 403):
            raise DatasetError(f'{site} cannot be logged in to: it answers {error.code} {error.reason}.') from None
        refused = error.code > 400  # a right one is redirected
    except urllib.error.URLError as error:
        raise DatasetError(f'{site} cannot be reached: {error.reason}.') from None
    if refused:
        raise DatasetError(f'{site} refused the login: check {USER} and {PASSWORD}.')
    return urllib.request.build_opener(cookies)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Do not follow redirections, so that they can be inspected."""

    def redirect_request(self, *_):
        return None
