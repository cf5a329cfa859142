"""Of a workflow task that was lost and done over, the repetition wins

Revision: 0024, after 0023
"""

import sqlalchemy as sa
from alembic import op

revision = '0024'
down_revision = '0023'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('orders', sa.Column('seen', sa.BigInteger(), nullable=False, server_default='0'))


def downgrade() -> None:
    op.drop_column('orders', 'seen')
