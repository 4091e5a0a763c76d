"""A minimal W3C WebDriver client for headless Chromium, so that browser tests need no further package."""

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

CHROMEDRIVER = shutil.which('chromedriver')
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'
KEYS = {'Escape': '\ue00c', 'Right': '\ue014', 'Left': '\ue012', 'Tab': '\ue004', 'Enter': '\ue007', 'Space': '\ue00d'}


class Browser:
  """One headless Chromium. Use as a context manager."""

  def __init__(self, width: int = 1280, height: int = 900):
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      port = probe.getsockname()[1]
    self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    self._driver = subprocess.Popen(
      [CHROMEDRIVER, f'--port={port}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    self._base = f'http://127.0.0.1:{port}'
    flags = [
      '--headless=new',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      f'--user-data-dir={self._profile.name}',
    ]
    options = {'binary': CHROMIUM, 'args': [*flags, f'--window-size={width},{height}']}
    wanted = {'goog:chromeOptions': options, 'goog:loggingPrefs': {'browser': 'ALL'}}
    for attempt in range(60):
      try:
        answer = self._call('POST', '/session', {'capabilities': {'alwaysMatch': wanted}})
        break
      except OSError:
        if attempt == 59 or self._driver.poll() is not None:
          self.close()
          raise
        time.sleep(0.25)
    self._base += f'/session/{answer["sessionId"]}'

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self):
    try:
      if '/session/' in self._base:
        self._call('DELETE', '')
    finally:
      self._driver.terminate()
      self._driver.wait()
      self._profile.cleanup()

  def _call(self, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(self._base + path, data, {'Content-Type': 'application/json'}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever the proxy settings
    try:
      with opener.open(request, timeout=60) as answer:
        return json.load(answer)['value']
    except urllib.error.HTTPError as error:
      raise RuntimeError(json.load(error)['value']['message']) from error

  def open(self, path):
    self._call('POST', '/url', {'url': path.resolve().as_uri()})

  def run(self, script, *arguments):
    return self._call('POST', '/execute/sync', {'script': script, 'args': list(arguments)})

  def find(self, selector):
    return self._call('POST', '/element', {'using': 'css selector', 'value': selector})[ELEMENT]

  def click(self, selector):
    self._call('POST', f'/element/{self.find(selector)}/click', {})

  def type(self, selector, text, clear=True):
    element = self.find(selector)
    if clear:
      self._call('POST', f'/element/{element}/clear', {})
    self._call('POST', f'/element/{element}/value', {'text': text})

  def select(self, selector, value):
    self.click(f'{selector} option[value="{value}"]')

  def press(self, key):
    actions = [{'type': 'keyDown', 'value': KEYS[key]}, {'type': 'keyUp', 'value': KEYS[key]}]
    self._call('POST', '/actions', {'actions': [{'type': 'key', 'id': 'keyboard', 'actions': actions}]})

  def devtools(self, command, **parameters):
    return self._call('POST', '/goog/cdp/execute', {'cmd': command, 'params': parameters})

  def console(self):
    """Messages since the last call."""
    return [entry['message'] for entry in self._call('POST', '/se/log', {'type': 'browser'})]

  def screenshot(self, path):
    path.write_bytes(base64.b64decode(self._call('GET', '/screenshot')))

  def accessible(self):
    """(role, name) of every node of the accessibility tree that is not ignored."""
    nodes = self.devtools('Accessibility.getFullAXTree')['nodes']
    return [(n['role']['value'], n.get('name', {}).get('value', '')) for n in nodes if not n.get('ignored')]
