"""Spellings: SKUs are found by what they are, less case, width, spaces and dashes

Revision: 0010, after 0009
"""

import sqlalchemy as sa
from alembic import op

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index('skus_by_spelling', 'skus', [
        sa.text(r"upper(regexp_replace(normalize(sku, NFKC), '[\s_\-\u2010-\u2015\u2212]+', '', 'g'))")
    ], unique=False)


def downgrade() -> None:
    op.drop_index('skus_by_spelling', table_name='skus')
