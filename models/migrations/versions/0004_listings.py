"""What shops offer of our stock, and below which level a person is called

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
    op.create_table('thresholds',
    sa.Column('sku', sa.String(), nullable=False),
    sa.Column('warehouse', sa.String(), nullable=False),
    sa.Column('below', sa.Integer(), nullable=False),
    sa.CheckConstraint('below > 0', name='threshold_positive'),
    sa.PrimaryKeyConstraint('sku', 'warehouse')
    )


def downgrade() -> None:
    op.drop_table('thresholds')
    op.drop_table('listings')
