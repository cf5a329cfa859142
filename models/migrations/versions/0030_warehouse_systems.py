"""The system that runs a location: people, or a warehouse system; and the work of those people

Revision: 0030, after 0035
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0030'
down_revision = '0035'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('warehouses', sa.Column('system', sa.String(), nullable=False, server_default='manual'))
    op.execute("""
        UPDATE warehouses SET system = 'wms' WHERE EXISTS (
            SELECT 1 FROM accounts
            WHERE integration = 'warehouse' AND source = 'wms' AND account = warehouses.code
        )
    """)
    op.create_table(
        'manual_jobs',
        sa.Column('fulfillment_id', sa.String(), nullable=False),
        sa.Column('state', sa.String(), nullable=False),
        sa.Column('picked', postgresql.JSONB(astext_type=sa.Text()), nullable=False, server_default='{}'),
        sa.Column('packed', postgresql.JSONB(astext_type=sa.Text()), nullable=False, server_default='{}'),
        sa.Column('weight_g', sa.Integer(), nullable=True),
        sa.Column('requests', postgresql.JSONB(astext_type=sa.Text()), nullable=False, server_default='[]'),
        sa.Column('actor', sa.String(), nullable=False, server_default=''),
        sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('fulfillment_id', name=op.f("manual_jobs_pkey")),
    )
    op.create_index('manual_jobs_open', 'manual_jobs', ['updated_at'], postgresql_where=sa.text("state = 'open'"))


def downgrade() -> None:
    op.drop_table('manual_jobs')
    op.drop_column('warehouses', 'system')
