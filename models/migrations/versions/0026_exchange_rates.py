"""Exchange rates

Revision: 0026, after 0025
"""

import sqlalchemy as sa
from alembic import op

revision = '0026'
down_revision = '0025'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'exchange_rates',
        sa.Column('currency', sa.String(), nullable=False),
        sa.Column('base', sa.String(), nullable=False),
        sa.Column('day', sa.Date(), nullable=False),
        sa.Column('rate', sa.Numeric(24, 12), nullable=False),
        sa.PrimaryKeyConstraint('currency', 'base', 'day'),
    )


def downgrade() -> None:
    op.drop_table('exchange_rates')
