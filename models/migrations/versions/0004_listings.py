"""What shops offer of our stock

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('listings',
    sa.Column('channel', sa.String(), nullable=False),
    sa.Column('shop', sa.String(), nullable=False),
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('listing', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('offered', sa.Integer(), nullable=True),
    sa.Column('offered_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('refused', sa.String(), nullable=False),
    sa.PrimaryKeyConstraint('channel', 'shop', 'sku')
    )


def downgrade() -> None:
    op.drop_table('listings')
