"""A scan belongs to a parcel of its carrier

Revision: 0020, after 0013
"""

import sqlalchemy as sa
from alembic import op

revision = '0020'
down_revision = '0013'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('fulfillments', sa.Column('booked_at', sa.DateTime(timezone=True), nullable=True))
    op.execute("""
        UPDATE fulfillments SET booked_at = timeline.at FROM timeline
        WHERE timeline.order_id = fulfillments.order_id AND timeline.key = 'booked:' || fulfillments.id
    """)
    op.add_column('scans', sa.Column('source', sa.String(), nullable=False, server_default=''))
    op.add_column('scans', sa.Column('carrier', sa.String(), nullable=False, server_default=''))
    op.add_column('scans', sa.Column('fulfillment_id', sa.String(), nullable=True))
    op.add_column('scans', sa.Column('unknown', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("""
        UPDATE scans SET source = fulfillments.carrier, fulfillment_id = fulfillments.id FROM fulfillments
        WHERE fulfillments.waybill_no = scans.waybill_no AND fulfillments.carrier IS NOT NULL
    """)
    for column in ('source', 'carrier', 'unknown'):
        op.alter_column('scans', column, server_default=None)
    op.drop_constraint('scans_pkey', 'scans', type_='primary')
    op.create_primary_key('scans_pkey', 'scans', ['source', 'waybill_no', 'scan_id'])
    op.create_index('scans_by_waybill', 'scans', ['waybill_no'], unique=False)
    op.create_index('scans_by_fulfillment', 'scans', ['fulfillment_id'], unique=False)
    op.create_index('scans_with_unknown_code', 'scans', ['source', 'at'], unique=False, postgresql_where=sa.text('unknown'))


def downgrade() -> None:
    op.execute("""
        DELETE FROM scans USING scans kept
        WHERE kept.waybill_no = scans.waybill_no AND kept.scan_id = scans.scan_id AND kept.source <> scans.source
          AND (kept.fulfillment_id IS NOT NULL, kept.source) > (scans.fulfillment_id IS NOT NULL, scans.source)
    """)
    op.drop_index('scans_with_unknown_code', table_name='scans')
    op.drop_index('scans_by_fulfillment', table_name='scans')
    op.drop_index('scans_by_waybill', table_name='scans')
    op.drop_constraint('scans_pkey', 'scans', type_='primary')
    op.create_primary_key('scans_pkey', 'scans', ['waybill_no', 'scan_id'])
    for column in ('unknown', 'fulfillment_id', 'carrier', 'source'):
        op.drop_column('scans', column)
    op.drop_column('fulfillments', 'booked_at')
