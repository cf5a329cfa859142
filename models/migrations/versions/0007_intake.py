"""Intake: by which path a message came, what people did to it, reconciliations, corrected origins

Revision: 0007, after 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.add_column('inbox', sa.Column('path', sa.String(), server_default='webhook', nullable=False))
    op.alter_column('inbox', 'path', server_default=None)
    op.create_index('inbox_by_order', 'inbox', ['order_id'], unique=False)
    op.create_table('inbox_handlings',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('message', sa.BigInteger(), nullable=False),
    sa.Column('what', sa.String(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('raw', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('inbox_handlings_by_message', 'inbox_handlings', ['message'], unique=False)
    op.create_table('reconciliations',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('channel', sa.String(), nullable=False),
    sa.Column('shop', sa.String(), nullable=False),
    sa.Column('since', sa.DateTime(timezone=True), nullable=False),
    sa.Column('until', sa.DateTime(timezone=True), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('listed', sa.Integer(), nullable=False),
    sa.Column('known', sa.Integer(), nullable=False),
    sa.Column('missing', sa.Integer(), nullable=False),
    sa.Column('pulled', sa.Integer(), nullable=False),
    sa.Column('failed', sa.Integer(), nullable=False),
    sa.Column('gone', sa.Integer(), nullable=False),
    sa.Column('error', sa.String(), nullable=False),
    sa.Column('details', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('reconciliations_by_shop', 'reconciliations', ['channel', 'shop', 'started_at'], unique=False)
    op.create_table('origin_corrections',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('order_id', sa.String(), nullable=False),
    sa.Column('request_id', sa.String(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('before', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('after', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('origin_corrections_by_request', 'origin_corrections', ['order_id', 'request_id'], unique=True)
    op.execute(
        "UPDATE orders SET origin = origin || jsonb_build_object("
        "'region', region, 'told', jsonb_build_object('region', origin->'region')) "
        "WHERE origin->>'region' <> region"
    )


def downgrade() -> None:

    op.drop_index('origin_corrections_by_request', table_name='origin_corrections')
    op.drop_table('origin_corrections')
    op.drop_index('reconciliations_by_shop', table_name='reconciliations')
    op.drop_table('reconciliations')
    op.drop_index('inbox_handlings_by_message', table_name='inbox_handlings')
    op.drop_table('inbox_handlings')
    op.drop_index('inbox_by_order', table_name='inbox')
    op.drop_column('inbox', 'path')
