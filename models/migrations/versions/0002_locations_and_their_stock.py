"""Locations of every kind, and their stock in every state

Revision: 0002, after 0001
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

_OPEN = 'oversell OR on_hand - allocated - reserved - safety_stock >= 0'
_WHOLE = 'oversell OR on_hand - allocated - reserved - safety_stock - unavailable >= 0'

_ADDED: tuple[tuple[str, str, Any, str | None], ...] = (
    ('skus', 'volume_cm3', sa.Integer(), '0'),
    ('skus', 'needs', postgresql.JSONB(astext_type=sa.Text()), "'[]'"),
    ('skus', 'presale_on', sa.Date(), None),
    ('warehouses', 'kind', sa.String(), "'warehouse'"),
    ('warehouses', 'parent', sa.String(), None),
    ('warehouses', 'audience', postgresql.JSONB(astext_type=sa.Text()), "'{}'"),
    ('warehouses', 'share', sa.Numeric(precision=5, scale=4), '0'),
    ('warehouses', 'lead_days', sa.Integer(), '0'),
    ('warehouses', 'capacity', sa.Integer(), None),
    ('warehouses', 'cutoff', sa.Time(), None),
    ('warehouses', 'areas', postgresql.JSONB(astext_type=sa.Text()), "'[]'"),
    ('warehouses', 'abilities', postgresql.JSONB(astext_type=sa.Text()), "'[]'"),
    ('warehouses', 'max_kg', sa.Numeric(precision=10, scale=3), None),
    ('warehouses', 'handling', sa.Numeric(precision=18, scale=4), '0'),
    ('stock_levels', 'unavailable', sa.Integer(), '0'),
    ('movements', 'unavailable', sa.Integer(), '0'),
    ('stock_waits', 'campaign', sa.String(), None),
    ('stock_waits', 'province', sa.String(), "''"),
    ('stock_waits', 'instead', postgresql.JSONB(astext_type=sa.Text()), "'[]'"),
    ('fulfillments', 'ship_from', sa.DateTime(timezone=True), None),
)
"""Table, column, type, and what the rows there are given; without it the column may be null."""


def upgrade() -> None:
    for table, name, type_, given in _ADDED:
        default = None if given is None else sa.text(given)
        op.add_column(table, sa.Column(name, type_, nullable=given is None, server_default=default))
        if given is not None:
            op.alter_column(table, name, server_default=None)
    op.create_check_constraint('unavailable_not_negative', 'stock_levels', 'unavailable >= 0')
    op.drop_constraint('available_not_negative', 'stock_levels', type_='check')
    op.create_check_constraint('available_not_negative', 'stock_levels', _WHOLE)
    op.create_table('substitutes',
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('substitute', sa.String(), nullable=False),
    sa.Column('rank', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('sku', 'substitute')
    )
    op.create_table('reservations',
    sa.Column('order_id', sa.String(), nullable=False),
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('order_id', 'warehouse', 'sku')
    )
    op.create_table('incoming',
    sa.Column('source', sa.String(), nullable=False),
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.Column('due', sa.Date(), nullable=False),
    sa.CheckConstraint('quantity > 0', name='incoming_positive'),
    sa.PrimaryKeyConstraint('source', 'warehouse', 'sku')
    )
    op.create_index('incoming_by_sku', 'incoming', ['sku', 'warehouse', 'due'], unique=False)
    op.create_table('stocktakes',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('status', sa.String(), nullable=False),
    sa.Column('lines', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('counted_by', sa.String(), nullable=False),
    sa.Column('counted_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('decided_by', sa.String(), nullable=True),
    sa.Column('decided_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )


def downgrade() -> None:
    op.drop_table('stocktakes')
    op.drop_index('incoming_by_sku', table_name='incoming')
    op.drop_table('incoming')
    op.drop_table('reservations')
    op.drop_table('substitutes')
    op.drop_constraint('available_not_negative', 'stock_levels', type_='check')
    op.create_check_constraint('available_not_negative', 'stock_levels', _OPEN)
    op.drop_constraint('unavailable_not_negative', 'stock_levels', type_='check')
    for table, name, _, _ in reversed(_ADDED):
        op.drop_column(table, name)
