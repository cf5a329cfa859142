"""Waiting orders claim what arrives

Revision: 0023, after 0022
"""

import sqlalchemy as sa
from alembic import op

revision = '0023'
down_revision = '0022'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('stock_waits', sa.Column('claims', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.alter_column('stock_waits', 'claims', server_default=None)


def downgrade() -> None:
    op.drop_column('stock_waits', 'claims')
