"""Carriers: terms, lanes as measured, why one was chosen; what scans say

Revision: 0011, after 0010
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('scans', sa.Column('problem', sa.String()))
    op.add_column('fulfillments', sa.Column('choice', postgresql.JSONB(astext_type=sa.Text())))
    op.add_column('fulfillments', sa.Column('scanned_at', sa.DateTime(timezone=True)))
    op.add_column('fulfillments', sa.Column('scan_status', sa.String()))
    op.add_column('fulfillments', sa.Column('eta', sa.DateTime(timezone=True)))
    op.create_table('carriers',
        sa.Column('carrier', sa.String(), nullable=False),
        sa.Column('terms', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint('carrier')
    )
    op.create_table('lanes',
        sa.Column('carrier', sa.String(), nullable=False),
        sa.Column('origin', sa.String(), nullable=False),
        sa.Column('destination', sa.String(), nullable=False),
        sa.Column('parcels', sa.Integer(), nullable=False),
        sa.Column('late', sa.Integer(), nullable=False),
        sa.Column('lost', sa.Integer(), nullable=False),
        sa.Column('days', sa.Numeric(precision=6, scale=2)),
        sa.Column('measured_at', sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('carrier', 'origin', 'destination')
    )


def downgrade() -> None:
    op.drop_table('lanes')
    op.drop_table('carriers')
    for column in ('eta', 'scan_status', 'scanned_at', 'choice'):
        op.drop_column('fulfillments', column)
    op.drop_column('scans', 'problem')
