"""A server that answers as carbon-intensity services do, well or badly. The first part of the path says how:

    ok hang drip cut closed zeros nulls stale skewed dst stuck wrongzone html huge redirect empty norows short e400 e401 e429once e500 slow
    file=NAME                        the bytes of FOLDER/NAME

The rest of the path is the service's own: UK NESO, Electricity Maps, WattTime or Carbon Aware SDK.
"""
import datetime
import http.server
import json
import math
import os
import threading
import time
import urllib.parse

UTC = datetime.timezone.utc


def stamp(t, zone=UTC):
    text = datetime.datetime.fromtimestamp(t, zone).isoformat(timespec="minutes")
    return text.replace("+00:00", "Z")


def curve(mode, begin, n, step):
    """(time, value) pairs of a forecast, with the mode's fault."""
    shift = {"stale": -10 * 86400, "skewed": 9 * 3600}.get(mode, 0)
    for i in range(12 if mode == "short" else n):
        t = begin + shift + i * step
        g = round(250 + 100 * math.sin(2 * math.pi * (t % 86400) / 86400))
        yield t, {"zeros": 0, "nulls": None, "stuck": 250}.get(mode, g)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, code, body, kind="application/json", headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def body(self, mode, path, query):
        now = time.time() // 1800 * 1800
        zone = (query.get("zone") or query.get("region") or query.get("location") or ["GB"])[0]
        zone = "XX" if mode == "wrongzone" else zone
        local = datetime.timezone(datetime.timedelta(hours=2)) if mode == "dst" else UTC
        if "/intensity/" in path:
            rows = [{"from": stamp(t), "to": stamp(t + 1800), "intensity": {"forecast": g, "actual": None, "index": "low"}}
                    for t, g in curve(mode, now, 96, 1800)]
            if "/regional/" in path:
                return {"data": {"regionid": 1, "postcode": "XX9" if mode == "wrongzone" else path.split("/")[-1], "data": rows}}
            return {"data": rows}
        if "carbon-intensity/forecast" in path:
            return {"zone": zone, "forecast": [{"carbonIntensity": g, "datetime": stamp(t, local)} for t, g in curve(mode, now // 3600 * 3600, 48, 3600)]}
        if path.endswith("/login"):
            return {"token": "REPLAY-BEARER"}
        if "/v3/forecast" in path:
            return {"data": [{"point_time": stamp(t, local), "value": None if g is None else 2.20462262 * g} for t, g in curve(mode, now, 576, 300)],
                    "meta": {"region": zone, "signal_type": "co2_moer", "units": "lbs_co2_per_mwh", "data_point_period_seconds": 300,
                             "generated_at": stamp(now)}}
        return [{"location": zone, "generatedAt": stamp(now), "forecastData":
                 [{"location": zone, "timestamp": stamp(t, local), "duration": 30, "value": g} for t, g in curve(mode, now, 96, 1800)]}]

    def do_GET(self):
        parts = urllib.parse.urlsplit(self.path)
        mode, path = parts.path.lstrip("/").split("/", 1)
        self.server.asked.append((mode, path, dict(self.headers)))
        simple = {"html": (200, b"<html>Maintenance</html>"), "empty": (200, {}), "norows": (200, {"data": []}),
                  "e400": (400, {"error": {"code": "400 Bad Request", "message": "Please enter a valid date"}}),
                  "e401": (401, {"error": "Invalid auth-token"}), "e500": (500, {"error": {"code": "500", "message": "broken"}}),
                  "huge": (200, b"[" + b"0," * (6 << 20) + b"0]")}
        try:
            if mode == "hang":
                self.server.over.wait(60)
            elif mode == "closed":
                self.close_connection = True
            elif mode in simple:
                self.reply(*simple[mode])
            elif mode == "redirect":
                self.reply(302, {}, headers=[("Location", f"/ok/{path}")])
            elif mode == "e429once" and sum(a[0] == mode for a in self.server.asked) < 2:
                self.reply(429, {"error": "Too many requests"})
            elif mode.startswith("file="):
                with open(os.path.join(self.server.folder, mode[5:]), "rb") as f:
                    self.reply(200, f.read())
            else:
                self.send_body(mode, json.dumps(self.body(mode, "/" + path, urllib.parse.parse_qs(parts.query))).encode())
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send_body(self, mode, data):
        if mode not in ("drip", "cut"):
            return self.reply(200, data)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if mode == "cut":
            self.wfile.write(data[:len(data) // 2])
            self.close_connection = True
            return None
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.over.wait(0.05):
                break
        return None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.folder, self.over = [], folder, threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients that give up are what is tested."""

    def url(self, mode):
        return f"http://127.0.0.1:{self.server_port}/{mode}"

    def stop(self):
        self.over.set()
        self.shutdown()
        self.server_close()
