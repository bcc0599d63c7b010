"""Dashboard `gaps`: what is missing, what became of it, and when: the gap ledger and the hourly coverage.

The same picture as ``stationkeeper gaps --html``, from what the checks have recorded instead of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from stationkeeper.dashboards.datasources import sql
from stationkeeper.dashboards.panels import AnyPanel, number, place, rows, series, states
from stationkeeper.telemetry.picture import COLOURS

UID = "stationkeeper-gaps"
TITLE = "Telemetry gaps"
SINCE = "now-7d"

# What the statements below name in angle brackets. A gap that somebody works on is still open. Of a partly
# recovered one the rest is an entry of its own; unrecoverable and expired ones have a reason.
_NAMES = {
    "<open>": "l.state IN ('open', 'claimed')",
    "<explained>": "l.state IN ('explained', 'unrecoverable', 'expired')",
    "<asked>": "tstzrange($__timeFrom()::timestamptz, $__timeTo()::timestamptz)",
    "<chosen>": "d.site IN (${site:sqlstring})",
}


def _statement(text: str) -> str:
    for name, meaning in _NAMES.items():
        text = text.replace(name, meaning)
    return text


def _ledger(value: str, state: str) -> str:
    return _statement(
        """
SELECT <value>
FROM flux.mg_gap_ledger l JOIN flux.mg_device_registry d ON d.id = l.device_id
WHERE <state> AND l.span && <asked> AND <chosen>
""".replace("<value>", value).replace("<state>", state)
    )


_RECOVERED = _statement("""
SELECT coalesce(sum(b.rows_new), 0)::bigint AS recovered
FROM flux.mg_backfill_batch b JOIN flux.mg_device_registry d ON d.id = b.device_id
WHERE b.span && <asked> AND <chosen>
""")

_UNVERIFIED = _statement("""
SELECT extract(epoch FROM now() - min(coalesce(s.verified_until, d.active_from)))::double precision AS age
FROM flux.mg_device_registry d LEFT JOIN flux.mg_coverage_state s ON s.device_id = d.id
WHERE d.active_from <= now() AND (d.active_to IS NULL OR d.active_to > now()) AND <chosen>
""")

_QUARANTINE = _statement("""
SELECT count(*) AS waiting
FROM flux.mg_quarantine q JOIN flux.mg_device_registry d ON d.id = q.device_id
WHERE q.resolved_at IS NULL AND <chosen>
""")

# Columns of whole hours, so many that a screen can show them; of a large fleet the devices that lack most.
# The worst state in a column is its colour. 4 means that no check has looked there yet.
_PICTURE = _statement("""
WITH asked AS (
  SELECT <asked> AS span,
         interval '1 hour' * ceil(extract(epoch FROM $__timeTo()::timestamptz - $__timeFrom()::timestamptz)
                                  / 3600 / 168)::int AS step
), device AS (
  SELECT d.id, d.name, d.active_from, d.active_to
  FROM flux.mg_device_registry d
  CROSS JOIN asked
  LEFT JOIN flux.mg_gap_ledger l ON l.device_id = d.id AND <open> AND l.span && asked.span
  WHERE <chosen> AND tstzrange(d.active_from, d.active_to) && asked.span
  GROUP BY d.id ORDER BY coalesce(sum(l.expected), 0) DESC, d.name LIMIT 100
), bucket AS (
  SELECT tstzrange(start, start + step) AS span
  FROM asked, generate_series(date_bin(step, lower(span), timestamptz '2000-01-01 00:00:00+00'),
                              upper(span), step) AS start
), mark AS (
  SELECT l.device_id, l.span, CASE WHEN <open> THEN 3 ELSE 2 END AS state
  FROM flux.mg_gap_ledger l, asked WHERE (<open> OR <explained>) AND l.span && asked.span
  UNION ALL
  SELECT b.device_id, b.span, 1
  FROM flux.mg_backfill_batch b, asked WHERE b.rows_new > 0 AND b.span && asked.span
)
SELECT lower(bucket.span) AS "time", device.name AS metric,
       coalesce(max(mark.state), CASE WHEN seen.until >= least(upper(bucket.span), now()) - interval '1 hour'
                                      THEN 0 ELSE 4 END) AS value
FROM device
JOIN bucket ON bucket.span && tstzrange(device.active_from, device.active_to)
LEFT JOIN LATERAL (SELECT s.verified_until AS until FROM flux.mg_coverage_state s
                   WHERE s.device_id = device.id) AS seen ON true
LEFT JOIN mark ON mark.device_id = device.id AND mark.span && bucket.span
GROUP BY bucket.span, device.name, seen.until
ORDER BY 1, 2
""")

# An hour in which nothing was counted is 0 of what was promised: that is the point of the chart. Of an hour
# that is not over, or in which a device began, only the part that counts is promised.
_HOURLY = _statement("""
WITH bucket AS (
  SELECT generate_series(date_bin('1 hour', $__timeFrom()::timestamptz, timestamptz '2000-01-01 00:00:00+00'),
                         $__timeTo()::timestamptz, interval '1 hour') AS hour
), promised AS (
  SELECT bucket.hour, d.id, d.site,
         extract(epoch FROM least(bucket.hour + interval '1 hour', d.active_to, now())
                            - greatest(bucket.hour, d.active_from)) / extract(epoch FROM d.cadence) AS rows
  FROM flux.mg_device_registry d CROSS JOIN bucket
  WHERE <chosen>
)
SELECT promised.hour AS "time", promised.site AS metric,
       (100.0 * coalesce(sum(c.rows), 0) / sum(promised.rows))::double precision AS value
FROM promised
LEFT JOIN flux.mg_coverage_hourly c ON c.device_id = promised.id AND c.hour = promised.hour
WHERE promised.rows >= 1
GROUP BY 1, 2
ORDER BY 1
""")

_DEVICES = _statement("""
SELECT d.site, d.name AS device, g.gaps AS "open gaps", g.missing AS "rows open",
       g.since AS "oldest open since", g.explained AS "rows explained", b.recovered AS "rows recovered",
       g.reason AS "newest reason", s.verified_until AS "verified until"
FROM flux.mg_device_registry d
LEFT JOIN flux.mg_coverage_state s ON s.device_id = d.id
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE <open>) AS gaps,
         coalesce(sum(l.expected) FILTER (WHERE <open>), 0)::bigint AS missing,
         coalesce(sum(l.expected) FILTER (WHERE <explained>), 0)::bigint AS explained,
         min(lower(l.span)) FILTER (WHERE <open>) AS since,
         (array_agg(l.reason ORDER BY l.changed_at DESC) FILTER (
           WHERE l.reason IS NOT NULL AND l.state NOT IN ('recovered', 'partial')))[1] AS reason
  FROM flux.mg_gap_ledger l WHERE l.device_id = d.id AND l.span && <asked>) AS g
CROSS JOIN LATERAL (
  SELECT coalesce(sum(batch.rows_new), 0)::bigint AS recovered
  FROM flux.mg_backfill_batch batch WHERE batch.device_id = d.id AND batch.span && <asked>) AS b
WHERE <chosen>
ORDER BY g.missing DESC, g.explained DESC, d.site, d.name
LIMIT 200
""")


def panels() -> Sequence[AnyPanel]:
    """Return the panels, placed."""
    bad = ((None, "green"), (1.0, "red"))
    return place(
        [
            number("Open gaps", "short", sql(_ledger("count(*) AS gaps", "<open>")), *bad),
            number(
                "Rows open",
                "short",
                sql(_ledger("coalesce(sum(l.expected), 0)::bigint AS missing", "<open>")),
                *bad,
                description="Missing, and nobody can say why. An estimate by the devices' cadence.",
            ),
            number(
                "Rows explained",
                "short",
                sql(_ledger("coalesce(sum(l.expected), 0)::bigint AS missing", "<explained>")),
                description="Missing, and it is known why, or they can not be had any more.",
            ),
            number("Rows recovered", "short", sql(_RECOVERED), description="Put back by a back-fill."),
            number(
                "Not verified for",
                "s",
                sql(_UNVERIFIED),
                (None, "green"),
                (7200.0, "orange"),
                (86400.0, "red"),
                description="Age of the moment up to which every gap of every device has been found.",
            ),
            number(
                "Rows in quarantine",
                "short",
                sql(_QUARANTINE),
                (None, "green"),
                (1.0, "orange"),
                description="Values that can not be true; see the runbook anomaly_list.",
            ),
            states(
                "Coverage of each device",
                sql(_PICTURE, "time_series"),
                {
                    "0": ("present", COLOURS["present"]),
                    "1": ("recovered", COLOURS["recovered"]),
                    "2": ("explained", COLOURS["explained"]),
                    "3": ("open", COLOURS["open"]),
                    "4": ("not checked", "#9aa5b1"),
                },
                description="The worst state in each column; the 100 devices that lack most. "
                "No colour: not in service.",
            ),
            series("Rows stored, of those promised, by site", "percent", sql(_HOURLY, "time_series")),
            rows("Gaps of each device", "short", sql(_DEVICES)),
        ]
    )
