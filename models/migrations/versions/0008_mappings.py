"""Mappings: what shops call a SKU

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('mappings',
    sa.Column('channel', sa.String(), nullable=False),
    sa.Column('shop', sa.String(), nullable=False),
    sa.Column('item', sa.String(), nullable=False),
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('match', sa.String(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('channel', 'shop', 'item')
    )
    op.create_index('orders_unmapped', 'orders', ['channel', 'shop'], unique=False,
                    postgresql_where=sa.text("""holds @> '[{"kind": "unknown_sku"}]'::jsonb"""))


def downgrade() -> None:
    op.drop_index('orders_unmapped', table_name='orders')
    op.drop_table('mappings')
