"""Review: rules, the blacklist, and what orders are found by

Revision: 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('review_rules',
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('shops', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('active', sa.Boolean(), nullable=False),
    sa.Column('condition', sa.String(), nullable=False),
    sa.Column('decisions', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.PrimaryKeyConstraint('number')
    )
    op.create_table('blacklist',
    sa.Column('kind', sa.String(), nullable=False),
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('hint', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('added_by', sa.String(), nullable=False),
    sa.Column('added_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('kind', 'id')
    )
    for name in ('buyer_index', 'place_index'):
        op.add_column('orders', sa.Column(name, sa.String(), nullable=False, server_default=''))
    tags = postgresql.JSONB(astext_type=sa.Text())
    op.add_column('orders', sa.Column('tags', tags, nullable=False, server_default='[]'))
    op.add_column('orders', sa.Column('sites', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.drop_index('orders_by_phone', table_name='orders')
    op.create_index('orders_by_phone', 'orders', ['phone_index', 'placed_at'], unique=False)
    for name in ('buyer', 'place'):
        known = sa.text(f"{name}_index <> ''")
        op.create_index(f'orders_by_{name}', 'orders', [f'{name}_index', 'placed_at'], postgresql_where=known)
    tagged = sa.text("tags <> '[]'")
    op.create_index('orders_by_tag', 'orders', ['tags'], postgresql_using='gin', postgresql_where=tagged)


def downgrade() -> None:
    for name in ('tag', 'place', 'buyer', 'phone'):
        op.drop_index(f'orders_by_{name}', table_name='orders')
    op.create_index('orders_by_phone', 'orders', ['phone_index'], unique=False)
    for name in ('sites', 'tags', 'place_index', 'buyer_index'):
        op.drop_column('orders', name)
    op.drop_table('blacklist')
    op.drop_table('review_rules')
