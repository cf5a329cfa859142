"""The workflow's runs that wrote an order: a newer run wins, whatever it has seen

Revision: 0038, after 0028
"""

import sqlalchemy as sa
from alembic import op

revision = '0038'
down_revision = '0028'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('orders', sa.Column('run_id', sa.String(), nullable=False, server_default=''))
    op.add_column('orders', sa.Column('past_runs', sa.ARRAY(sa.String()), nullable=False, server_default='{}'))


def downgrade() -> None:
    op.drop_column('orders', 'past_runs')
    op.drop_column('orders', 'run_id')
