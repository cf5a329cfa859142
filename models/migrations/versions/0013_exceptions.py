"""One table for exceptions and alerts

Revision: 0013, after 0012
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None

PARCEL_KINDS = (
    'not_accepted', 'booking_failed', 'not_picked_up', 'no_movement', 'stuck', 'late', 'delivery_failed', 'refused',
    'returned', 'lost', 'damaged', 'wrong_address',
)
"""The kinds that were exceptions before; every other kind was an alert."""
POLICIES = (
    # kind, severity, owner, hours until due
    ('late', 'normal', 'service', 24),
    ('delivery_failed', 'high', 'service', 24),
    ('refused', 'high', 'service', 24),
    ('lost', 'critical', 'logistics', 24),
    ('damaged', 'critical', 'logistics', 24),
    ('ship_overdue', 'high', 'warehouse', 24),
    ('channel_refused', 'high', 'operations', 4),
    ('waybill_not_cancelled', 'normal', 'logistics', 24),
    ('held_too_late', 'high', 'service', 2),
    ('shipped_after_recall', 'high', 'warehouse', 4),
    ('channel_cancel', 'high', 'service', 4),
    ('channel_modify', 'high', 'service', 4),
    ('lines_added', 'high', 'service', 24),
    ('out_of_reach', 'normal', 'service', 24),
    ('overdue.in_review', 'normal', 'service', 4),
    ('overdue.on_hold', 'normal', 'service', 4),
    ('overdue.awaiting_stock', 'normal', 'purchasing', 24),
    ('refund_after_shipping', 'high', 'service', 24),
    ('refund_after_end', 'normal', 'service', 24),
    ('paid_after_end', 'high', 'service', 24),
    ('low_stock', 'normal', 'purchasing', 24),
    ('overdue_transfer', 'normal', 'warehouse', 24),
    ('authorise', 'critical', 'operations', 2),
    ('intake_failed', 'high', 'operations', 4),
    ('reconciliation', 'normal', 'operations', 24),
    ('reconciliation_stopped', 'normal', 'operations', 24),
)


def upgrade() -> None:
    op.add_column('exceptions', sa.Column('key', sa.String()))
    op.add_column('exceptions', sa.Column('detail', postgresql.JSONB(astext_type=sa.Text()), nullable=False, server_default='{}'))
    op.add_column('exceptions', sa.Column('detected', sa.Boolean(), nullable=False, server_default=sa.true()))
    op.execute("UPDATE exceptions SET key = fulfillment_id || ':' || kind")
    op.alter_column('exceptions', 'key', nullable=False)
    op.drop_constraint('exceptions_pkey', 'exceptions', type_='primary')
    op.create_primary_key('exceptions_pkey', 'exceptions', ['key'])
    policies = ', '.join(f"('{kind}', '{severity}', '{owner}', {hours})" for kind, severity, owner, hours in POLICIES)
    op.execute(f"""
        INSERT INTO exceptions (key, kind, order_id, fulfillment_id, shop, warehouse, carrier, waybill_no, detail,
                                severity, owner, detected, cause_at, opened_at, due_at, closed_at, closed_by, note)
        SELECT CASE WHEN f.id IS NULL THEN a.key ELSE f.id || ':' || a.kind END,
               a.kind, a.order_id, coalesce(f.id, ''),
               coalesce(o.channel || ':' || o.shop, a.detail ->> 'shop', ''),
               coalesce(f.warehouse, nullif(a.detail ->> 'warehouse', '*'), a.detail ->> 'destination', ''),
               f.carrier, coalesce(f.waybill_no, a.detail ->> 'waybill_no'), a.detail,
               p.severity, p.owner, false, a.raised_at, a.raised_at, a.raised_at + p.hours * interval '1 hour',
               a.closed_at, CASE WHEN a.closed_at IS NOT NULL THEN 'hengdan' END, ''
        FROM (SELECT key, substr(kind, length('alert.') + 1) AS kind, order_id, detail, raised_at, closed_at FROM alerts) a
        JOIN (VALUES {policies}) p (kind, severity, owner, hours) ON p.kind = a.kind
        LEFT JOIN orders o ON o.id = a.order_id
        LEFT JOIN fulfillments f ON f.order_id = a.order_id
                                AND a.key = a.order_id || ':' || a.kind || ':' || substr(f.id, length(a.order_id) + 2)
        ON CONFLICT (key) DO NOTHING
    """)
    op.alter_column('exceptions', 'detail', server_default=None)
    op.alter_column('exceptions', 'detected', server_default=None)
    op.create_index('exceptions_by_order', 'exceptions', ['order_id'], unique=False)
    op.drop_index('alerts_by_order', table_name='alerts')
    op.drop_table('alerts')


def downgrade() -> None:
    op.create_table('alerts',
        sa.Column('key', sa.String(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('order_id', sa.String(), nullable=False),
        sa.Column('detail', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column('raised_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('closed_at', sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint('key')
    )
    op.create_index('alerts_by_order', 'alerts', ['order_id'], unique=False)
    kinds = ', '.join(f"'{kind}'" for kind in PARCEL_KINDS)
    op.execute(f"""
        INSERT INTO alerts (key, kind, order_id, detail, raised_at, closed_at)
        SELECT CASE WHEN fulfillment_id = '' THEN key
                    ELSE order_id || ':' || kind || substr(fulfillment_id, length(order_id) + 1) END,
               'alert.' || kind, order_id,
               jsonb_strip_nulls(jsonb_build_object(
                   'shop', nullif(shop, ''), 'warehouse', nullif(warehouse, ''), 'waybill_no', waybill_no,
                   'fulfillment', nullif(substr(fulfillment_id, length(order_id) + 2), ''))) || detail,
               opened_at, closed_at
        FROM exceptions WHERE NOT detected
    """)
    op.execute(f"DELETE FROM exceptions WHERE kind NOT IN ({kinds})")
    op.drop_index('exceptions_by_order', table_name='exceptions')
    op.drop_constraint('exceptions_pkey', 'exceptions', type_='primary')
    op.create_primary_key('exceptions_pkey', 'exceptions', ['fulfillment_id', 'kind'])
    op.drop_column('exceptions', 'detected')
    op.drop_column('exceptions', 'detail')
    op.drop_column('exceptions', 'key')
