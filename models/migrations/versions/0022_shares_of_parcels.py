"""What each parcel of an order collects and reports

Revision: 0022, after 0020
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0022'
down_revision = '0020'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('fulfillments', sa.Column('cash', sa.Numeric(precision=18, scale=4), nullable=True))
    op.add_column('fulfillments', sa.Column('reported_units', postgresql.JSONB(astext_type=sa.Text()), nullable=True))


def downgrade() -> None:
    op.drop_column('fulfillments', 'reported_units')
    op.drop_column('fulfillments', 'cash')
