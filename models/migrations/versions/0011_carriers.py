"""Carriers: what a scan says went wrong

Revision: 0011, after 0010
"""

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('scans', sa.Column('problem', sa.String()))


def downgrade() -> None:
    op.drop_column('scans', 'problem')
