"""Replenishment: purchasing terms, promotions, suggestions and purchase orders

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table('promotions',
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('first', sa.Date(), nullable=False),
    sa.Column('last', sa.Date(), nullable=False),
    sa.CheckConstraint('last >= first', name='promotion_in_order'),
    sa.PrimaryKeyConstraint('sku', 'first')
    )
    op.create_table('purchase_orders',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('supplier', sa.String(), nullable=False),
    sa.Column('lines', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('status', sa.String(), nullable=False),
    sa.Column('due', sa.Date(), nullable=False),
    sa.Column('created_by', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('purchase_orders_by_status', 'purchase_orders', ['status', 'due'], unique=False)
    op.create_table('purchase_terms',
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('supplier', sa.String(), nullable=False),
    sa.Column('lead_days', sa.Integer(), nullable=False),
    sa.Column('lead_spread_days', sa.Float(), nullable=False),
    sa.Column('review_days', sa.Integer(), nullable=False),
    sa.Column('pack_size', sa.Integer(), nullable=False),
    sa.Column('minimum_quantity', sa.Integer(), nullable=False),
    sa.Column('service_level', sa.Float(), nullable=False),
    sa.Column('unit_cost', sa.Numeric(precision=18, scale=4), nullable=False),
    sa.Column('currency', sa.String(), nullable=False),
    sa.CheckConstraint('lead_days >= 0', name='lead_not_negative'),
    sa.CheckConstraint('pack_size > 0', name='pack_positive'),
    sa.PrimaryKeyConstraint('sku', 'warehouse')
    )
    op.create_table('replenishments',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.Column('reorder_point', sa.Integer(), nullable=False),
    sa.Column('order_by', sa.Date(), nullable=False),
    sa.Column('stock_out_on', sa.Date(), nullable=True),
    sa.Column('detail', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('status', sa.String(), nullable=False),
    sa.Column('made_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('decided_by', sa.String(), nullable=True),
    sa.Column('decided_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('replenishments_by_status', 'replenishments', ['status', 'order_by'], unique=False)
    op.create_index('replenishments_open', 'replenishments', ['sku', 'warehouse'], unique=True, postgresql_where=sa.text("status = 'suggested'"))


def downgrade() -> None:
    op.drop_index('replenishments_open', table_name='replenishments', postgresql_where=sa.text("status = 'suggested'"))
    op.drop_index('replenishments_by_status', table_name='replenishments')
    op.drop_table('replenishments')
    op.drop_table('purchase_terms')
    op.drop_index('purchase_orders_by_status', table_name='purchase_orders')
    op.drop_table('purchase_orders')
    op.drop_table('promotions')
