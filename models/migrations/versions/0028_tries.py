"""A message that fails again and again with what looks passing becomes failed

Revision: 0028, after 0026
"""

import sqlalchemy as sa
from alembic import op

revision = '0028'
down_revision = '0026'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('inbox', sa.Column('tries', sa.Integer(), nullable=False, server_default='0'))
    op.add_column('inbox', sa.Column('tried_since', sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column('inbox', 'tried_since')
    op.drop_column('inbox', 'tries')
