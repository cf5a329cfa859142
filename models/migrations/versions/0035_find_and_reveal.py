"""Find orders by number, SKU, carrier and time; keep what modifications changed of contact data, sealed

Revision: 0035, after 0038
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0035'
down_revision = '0038'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('timeline', sa.Column('contact', sa.LargeBinary()))
    op.add_column('orders', sa.Column('skus', postgresql.ARRAY(sa.String()), nullable=False, server_default='{}'))
    op.execute("UPDATE orders SET skus = ARRAY(SELECT DISTINCT each ->> 'sku' FROM jsonb_array_elements(lines) AS each)")
    op.create_index('orders_by_number', 'orders', ['channel_order_no'])
    op.create_index('orders_by_time', 'orders', ['placed_at', 'id'])
    op.create_index('orders_by_sku', 'orders', ['skus'], postgresql_using='gin')
    op.create_index('fulfillments_by_carrier', 'fulfillments', ['carrier'])


def downgrade() -> None:
    op.drop_index('fulfillments_by_carrier', 'fulfillments')
    op.drop_index('orders_by_sku', 'orders')
    op.drop_index('orders_by_time', 'orders')
    op.drop_index('orders_by_number', 'orders')
    op.drop_column('orders', 'skus')
    op.drop_column('timeline', 'contact')
