"""The first schema

Revision: 0001, after nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('accounts',
    sa.Column('lane', sa.String(), nullable=False),
    sa.Column('source', sa.String(), nullable=False),
    sa.Column('account', sa.String(), nullable=False),
    sa.Column('base_url', sa.String(), nullable=False),
    sa.Column('secrets', sa.LargeBinary(), nullable=False),
    sa.Column('settings', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('cursor', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('lane', 'source', 'account')
    )
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
    op.create_table('api_keys',
    sa.Column('hash', sa.String(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('scopes', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('hash'),
    sa.UniqueConstraint('name')
    )
    op.create_table('bundles',
    sa.Column('bundle', sa.String(), nullable=False),
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.CheckConstraint('quantity > 0', name='bundle_quantity_positive'),
    sa.PrimaryKeyConstraint('bundle', 'sku')
    )
    op.create_table('channel_orders',
    sa.Column('order_id', sa.String(), nullable=False),
    sa.Column('modified_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('document', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('order_id')
    )
    op.create_table('inbox',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('lane', sa.String(), nullable=False),
    sa.Column('source', sa.String(), nullable=False),
    sa.Column('account', sa.String(), nullable=False),
    sa.Column('fact_key', sa.String(), nullable=False),
    sa.Column('topic', sa.String(), nullable=False),
    sa.Column('priority', sa.Integer(), nullable=False),
    sa.Column('raw', sa.LargeBinary(), nullable=False),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('field', sa.String(), nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('order_id', sa.String(), nullable=True),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('received_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('inbox_by_fact', 'inbox', ['lane', 'source', 'account', 'fact_key'], unique=True)
    op.create_index('inbox_failed', 'inbox', ['id'], unique=False, postgresql_where="state = 'failed'")
    op.create_index('inbox_pending', 'inbox', ['lane', 'source', 'account', 'priority', 'id'], unique=False, postgresql_where="state = 'pending'")
    op.create_index('inbox_started', 'inbox', ['order_id'], unique=False, postgresql_where="state = 'started'")
    op.create_table('movements',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('key', sa.String(), nullable=False),
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('kind', sa.String(), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.Column('on_hand', sa.Integer(), nullable=False),
    sa.Column('allocated', sa.Integer(), nullable=False),
    sa.Column('reserved', sa.Integer(), nullable=False),
    sa.Column('order_id', sa.String(), nullable=True),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('movements_by_key', 'movements', ['key', 'warehouse', 'sku'], unique=True)
    op.create_index('movements_by_order', 'movements', ['order_id'], unique=False)
    op.create_index('movements_by_sku', 'movements', ['sku', 'warehouse', 'id'], unique=False)
    op.create_table('orders',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('channel', sa.String(), nullable=False),
    sa.Column('shop', sa.String(), nullable=False),
    sa.Column('channel_order_no', sa.String(), nullable=False),
    sa.Column('status', sa.String(), nullable=False),
    sa.Column('revision', sa.Integer(), nullable=False),
    sa.Column('priority', sa.Integer(), nullable=False),
    sa.Column('holds', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('lines', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('origin', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('plan', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('custom', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('currency', sa.String(), nullable=False),
    sa.Column('total', sa.Numeric(precision=18, scale=4), nullable=False),
    sa.Column('recipient', sa.LargeBinary(), nullable=True),
    sa.Column('carrier', sa.String(), nullable=True),
    sa.Column('phone_index', sa.String(), nullable=False),
    sa.Column('region', sa.String(), nullable=False),
    sa.Column('next_step', sa.String(), nullable=False),
    sa.Column('deadline', sa.DateTime(timezone=True), nullable=True),
    sa.Column('placed_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('paid_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('promised_by', sa.DateTime(timezone=True), nullable=True),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('orders_by_phone', 'orders', ['phone_index'], unique=False)
    op.create_index('orders_by_shop', 'orders', ['channel', 'shop', 'placed_at'], unique=False)
    op.create_index('orders_by_status', 'orders', ['status', 'placed_at'], unique=False)
    op.create_table('scans',
    sa.Column('waybill_no', sa.String(), nullable=False),
    sa.Column('scan_id', sa.String(), nullable=False),
    sa.Column('status', sa.String(), nullable=True),
    sa.Column('code', sa.String(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('place', sa.String(), nullable=False),
    sa.Column('text', sa.String(), nullable=False),
    sa.PrimaryKeyConstraint('waybill_no', 'scan_id')
    )
    op.create_table('skus',
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('title', sa.String(), nullable=False),
    sa.Column('title_zh', sa.String(), nullable=False),
    sa.Column('price', sa.Numeric(precision=18, scale=4), nullable=False),
    sa.Column('currency', sa.String(), nullable=False),
    sa.Column('weight_kg', sa.Numeric(precision=10, scale=3), nullable=False),
    sa.Column('oversell', sa.Boolean(), nullable=False),
    sa.PrimaryKeyConstraint('sku')
    )
    op.create_table('stock_levels',
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('on_hand', sa.Integer(), nullable=False),
    sa.Column('allocated', sa.Integer(), nullable=False),
    sa.Column('reserved', sa.Integer(), nullable=False),
    sa.Column('safety_stock', sa.Integer(), nullable=False),
    sa.Column('oversell', sa.Boolean(), nullable=False),
    sa.CheckConstraint('allocated >= 0', name='allocated_not_negative'),
    sa.CheckConstraint('on_hand >= 0', name='on_hand_not_negative'),
    sa.CheckConstraint('oversell OR on_hand - allocated - reserved - safety_stock >= 0', name='available_not_negative'),
    sa.CheckConstraint('reserved >= 0', name='reserved_not_negative'),
    sa.CheckConstraint('safety_stock >= 0', name='safety_stock_not_negative'),
    sa.PrimaryKeyConstraint('warehouse', 'sku')
    )
    op.create_index('stock_levels_by_sku', 'stock_levels', ['sku'], unique=False)
    op.create_table('stock_waits',
    sa.Column('order_id', sa.String(), nullable=False),
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.Column('priority', sa.Integer(), nullable=False),
    sa.Column('since', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('order_id', 'sku')
    )
    op.create_index('stock_waits_by_sku', 'stock_waits', ['sku', 'priority', 'since'], unique=False)
    op.create_table('timeline',
    sa.Column('order_id', sa.String(), nullable=False),
    sa.Column('key', sa.String(), nullable=False),
    sa.Column('number', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('what', sa.String(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('detail', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.PrimaryKeyConstraint('order_id', 'key')
    )
    op.create_table('warehouses',
    sa.Column('code', sa.String(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('name_zh', sa.String(), nullable=False),
    sa.Column('province', sa.String(), nullable=False),
    sa.Column('rank', sa.Integer(), nullable=False),
    sa.Column('sender', sa.LargeBinary(), nullable=True),
    sa.Column('carrier', sa.String(), nullable=False),
    sa.Column('closed', sa.Boolean(), nullable=False),
    sa.PrimaryKeyConstraint('code')
    )
    op.create_table('fulfillments',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('order_id', sa.String(), nullable=False),
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('status', sa.String(), nullable=False),
    sa.Column('request_status', sa.String(), nullable=False),
    sa.Column('lines', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('carrier', sa.String(), nullable=True),
    sa.Column('waybill_no', sa.String(), nullable=True),
    sa.Column('label', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('tracking', sa.String(), nullable=True),
    sa.Column('weight_kg', sa.Numeric(precision=10, scale=3), nullable=True),
    sa.Column('told_channel', sa.Boolean(), nullable=False),
    sa.Column('shipped_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['order_id'], ['orders.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('fulfillments_by_order', 'fulfillments', ['order_id'], unique=False)
    op.create_index('fulfillments_by_waybill', 'fulfillments', ['waybill_no'], unique=False)
    op.execute("""
        CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'the ledger is append-only: correct it by another movement'; END $$
    """)
    op.execute("""
        CREATE TRIGGER movements_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON movements
        FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()
    """)


def downgrade() -> None:
    op.drop_index('fulfillments_by_waybill', table_name='fulfillments')
    op.drop_index('fulfillments_by_order', table_name='fulfillments')
    op.drop_table('fulfillments')
    op.drop_table('warehouses')
    op.drop_table('timeline')
    op.drop_index('stock_waits_by_sku', table_name='stock_waits')
    op.drop_table('stock_waits')
    op.drop_index('stock_levels_by_sku', table_name='stock_levels')
    op.drop_table('stock_levels')
    op.drop_table('skus')
    op.drop_table('scans')
    op.drop_index('orders_by_status', table_name='orders')
    op.drop_index('orders_by_shop', table_name='orders')
    op.drop_index('orders_by_phone', table_name='orders')
    op.drop_table('orders')
    op.drop_index('movements_by_sku', table_name='movements')
    op.drop_index('movements_by_order', table_name='movements')
    op.drop_index('movements_by_key', table_name='movements')
    op.drop_table('movements')
    op.drop_index('inbox_started', table_name='inbox', postgresql_where="state = 'started'")
    op.drop_index('inbox_pending', table_name='inbox', postgresql_where="state = 'pending'")
    op.drop_index('inbox_failed', table_name='inbox', postgresql_where="state = 'failed'")
    op.drop_index('inbox_by_fact', table_name='inbox')
    op.drop_table('inbox')
    op.drop_table('channel_orders')
    op.drop_table('bundles')
    op.drop_table('api_keys')
    op.drop_index('alerts_by_order', table_name='alerts')
    op.drop_table('alerts')
    op.drop_table('accounts')
    op.execute("DROP FUNCTION ledger_is_append_only")
