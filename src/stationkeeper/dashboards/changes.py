"""What people did to the system, drawn over every dashboard: runs that change something, and incidents."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from stationkeeper.dashboards.datasources import DATABASE, sql

TITLE = "Changes and incidents"
# From the copies of the audit trail. site.yml describes no risk, and changes something.
QUERY = sql(
    """
    SELECT at AS time,
           concat_ws(' ', data #>> '{who,person}', 'ran',
                     regexp_replace(data ->> 'playbook', '^.*/|[.]ya?ml$', '', 'g'),
                     data #>> '{extra_vars,target}', nullif('(' || (data ->> 'reason') || ')', '()')) AS text,
           coalesce(data #>> '{runbook,area}', 'site') AS tags
    FROM ops.audit
    WHERE event = 'START' AND data ->> 'mode' = 'real' AND $__timeFilter(at)
      AND (data #>> '{runbook,risk}' IS DISTINCT FROM 'read' OR data ->> 'playbook' ~ 'incident')
    ORDER BY at
    """
)


def annotation() -> dashboard.AnnotationQuery:
    """Return the annotation that every dashboard has."""
    return (
        dashboard.AnnotationQuery()
        .name(TITLE)
        .datasource(DATABASE)
        .icon_color("purple")
        .enable(enable=True)
        .target(QUERY)
    )
