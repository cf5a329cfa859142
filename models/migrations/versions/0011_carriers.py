"""Carriers: terms, lanes as measured, why one was chosen; what scans say

Revision: 0011, after 0010
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('scans', sa.Column('exception', sa.String()))
    op.add_column('fulfillments', sa.Column('choice', postgresql.JSONB(astext_type=sa.Text())))
    op.add_column('fulfillments', sa.Column('scanned_at', sa.DateTime(timezone=True)))
    op.add_column('fulfillments', sa.Column('scan_status', sa.String()))
    op.add_column('fulfillments', sa.Column('scan_exception', sa.String()))
    op.add_column('fulfillments', sa.Column('scan_place', sa.String()))
    op.add_column('fulfillments', sa.Column('scan_place_at', sa.DateTime(timezone=True)))
    op.add_column('fulfillments', sa.Column('asked_at', sa.DateTime(timezone=True)))
    op.add_column('fulfillments', sa.Column('followed_at', sa.DateTime(timezone=True)))
    op.add_column('fulfillments', sa.Column('eta', sa.DateTime(timezone=True)))
    op.create_table('exceptions',
        sa.Column('fulfillment_id', sa.String(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('order_id', sa.String(), nullable=False),
        sa.Column('shop', sa.String(), nullable=False),
        sa.Column('warehouse', sa.String(), nullable=False),
        sa.Column('carrier', sa.String()),
        sa.Column('waybill_no', sa.String()),
        sa.Column('severity', sa.String(), nullable=False),
        sa.Column('owner', sa.String(), nullable=False),
        sa.Column('cause_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('opened_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('due_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('escalated_at', sa.DateTime(timezone=True)),
        sa.Column('remedy', sa.String()),
        sa.Column('remedied_at', sa.DateTime(timezone=True)),
        sa.Column('closed_at', sa.DateTime(timezone=True)),
        sa.Column('closed_by', sa.String()),
        sa.Column('note', sa.String(), nullable=False),
        sa.PrimaryKeyConstraint('fulfillment_id', 'kind')
    )
    op.create_index('exceptions_open', 'exceptions', ['kind', 'due_at'], unique=False, postgresql_where=sa.text('closed_at IS NULL'))
    op.create_index('fulfillments_under_way', 'fulfillments', ['status'], unique=False, postgresql_where=sa.text("status NOT IN ('delivered', 'cancelled')"))
    op.create_table('exception_policies',
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('policy', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint('kind')
    )
    op.create_table('templates',
        sa.Column('event', sa.String(), nullable=False),
        sa.Column('medium', sa.String(), nullable=False),
        sa.Column('shop', sa.String(), nullable=False),
        sa.Column('lang', sa.String(), nullable=False),
        sa.Column('subject', sa.String(), nullable=False),
        sa.Column('body', sa.String(), nullable=False),
        sa.Column('active', sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint('event', 'medium', 'shop', 'lang')
    )
    op.create_table('notifications',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('event', sa.String(), nullable=False),
        sa.Column('medium', sa.String(), nullable=False),
        sa.Column('account', sa.String(), nullable=False),
        sa.Column('order_id', sa.String(), nullable=False),
        sa.Column('message', sa.LargeBinary(), nullable=False),
        sa.Column('state', sa.String(), nullable=False),
        sa.Column('outcome', sa.String(), nullable=False),
        sa.Column('attempts', sa.Integer(), nullable=False),
        sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('next_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('done_at', sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint('id')
    )
    op.create_index('notifications_waiting', 'notifications', ['next_at'], unique=False, postgresql_where=sa.text("state IN ('waiting', 'sending')"))
    op.create_index('notifications_by_order', 'notifications', ['order_id'], unique=False)
    op.create_table('notification_looks',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('line', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('id')
    )
    op.create_index('timeline_by_number', 'timeline', ['number'], unique=False)
    op.create_table('opt_outs',
        sa.Column('address_index', sa.String(), nullable=False),
        sa.Column('at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('actor', sa.String(), nullable=False),
        sa.PrimaryKeyConstraint('address_index')
    )
    op.create_table('prints',
        sa.Column('fulfillment_id', sa.String(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('document', sa.String(), nullable=False),
        sa.Column('at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('actor', sa.String(), nullable=False),
        sa.PrimaryKeyConstraint('fulfillment_id', 'kind', 'number')
    )
    op.create_index('prints_by_document', 'prints', ['document', 'fulfillment_id'], unique=True)
    op.create_table('documents',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('part', sa.Integer(), nullable=False),
        sa.Column('content_type', sa.String(), nullable=False),
        sa.Column('content', sa.LargeBinary(), nullable=False),
        sa.Column('made_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('id', 'part')
    )
    op.create_index('documents_by_expiry', 'documents', ['expires_at'], unique=False)
    op.create_table('carriers',
        sa.Column('carrier', sa.String(), nullable=False),
        sa.Column('terms', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint('carrier')
    )
    op.create_table('settlements',
        sa.Column('fulfillment_id', sa.String(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('order_id', sa.String(), nullable=False),
        sa.Column('carrier', sa.String()),
        sa.Column('waybill_no', sa.String()),
        sa.Column('reason', sa.String(), nullable=False),
        sa.Column('currency', sa.String(), nullable=False),
        sa.Column('amount', sa.Numeric(precision=18, scale=4), nullable=False),
        sa.Column('paid', sa.Numeric(precision=18, scale=4)),
        sa.Column('reference', sa.String(), nullable=False),
        sa.Column('state', sa.String(), nullable=False),
        sa.Column('note', sa.String(), nullable=False),
        sa.Column('actor', sa.String(), nullable=False),
        sa.Column('opened_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('fulfillment_id', 'kind')
    )
    op.create_index('settlements_open', 'settlements', ['kind', 'opened_at'], unique=False, postgresql_where=sa.text("state IN ('open', 'asked')"))
    op.create_index('settlements_by_order', 'settlements', ['order_id'], unique=False)
    op.create_table('carriage_weights',
        sa.Column('shop', sa.String(), nullable=False),
        sa.Column('weights', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint('shop')
    )
    op.create_table('carriage_rules',
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('rule', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint('number')
    )
    op.create_table('lanes',
        sa.Column('carrier', sa.String(), nullable=False),
        sa.Column('origin', sa.String(), nullable=False),
        sa.Column('destination', sa.String(), nullable=False),
        sa.Column('parcels', sa.Integer(), nullable=False),
        sa.Column('late', sa.Integer(), nullable=False),
        sa.Column('lost', sa.Integer(), nullable=False),
        sa.Column('days', sa.Numeric(precision=6, scale=2)),
        sa.Column('measured_at', sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('carrier', 'origin', 'destination')
    )


def downgrade() -> None:
    op.drop_table('lanes')
    op.drop_table('carriage_rules')
    op.drop_table('settlements')
    op.drop_table('carriage_weights')
    op.drop_table('exception_policies')
    op.drop_index('timeline_by_number', table_name='timeline')
    for table in ('notification_looks', 'documents', 'prints', 'opt_outs', 'notifications', 'templates'):
        op.drop_table(table)
    op.drop_index('fulfillments_under_way', table_name='fulfillments')
    op.drop_table('exceptions')
    op.drop_table('carriers')
    for column in ('eta', 'followed_at', 'asked_at', 'scan_place_at', 'scan_place', 'scan_exception', 'scan_status', 'scanned_at', 'choice'):
        op.drop_column('fulfillments', column)
    op.drop_column('scans', 'exception')
