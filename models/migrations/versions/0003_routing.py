"""Rules and rate tables of planning, and when a fulfillment order was opened in which line of work

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('routing_rules',
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('shops', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('campaigns', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('active', sa.Boolean(), nullable=False),
    sa.Column('condition', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('action', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.PrimaryKeyConstraint('number')
    )
    op.create_table('rates',
    sa.Column('carrier', sa.String(), nullable=False),
    sa.Column('origin', sa.String(), nullable=False),
    sa.Column('destination', sa.String(), nullable=False),
    sa.Column('first_kg', sa.Numeric(precision=10, scale=3), nullable=False),
    sa.Column('first_price', sa.Numeric(precision=12, scale=4), nullable=False),
    sa.Column('further_kg', sa.Numeric(precision=10, scale=3), nullable=False),
    sa.Column('further_price', sa.Numeric(precision=12, scale=4), nullable=False),
    sa.Column('volume_divisor', sa.Integer(), nullable=False),
    sa.Column('days', sa.Integer(), nullable=False),
    sa.Column('surcharge', sa.Numeric(precision=12, scale=4), nullable=False),
    sa.PrimaryKeyConstraint('carrier', 'origin', 'destination')
    )
    op.add_column('fulfillments', sa.Column('queue', sa.String(), nullable=True))
    op.add_column('fulfillments', sa.Column('opened_at', sa.DateTime(timezone=True), nullable=True))
    op.create_index('fulfillments_by_warehouse', 'fulfillments', ['warehouse', 'opened_at'], unique=False)


def downgrade() -> None:
    op.drop_index('fulfillments_by_warehouse', table_name='fulfillments')
    op.drop_column('fulfillments', 'opened_at')
    op.drop_column('fulfillments', 'queue')
    op.drop_table('rates')
    op.drop_table('routing_rules')
