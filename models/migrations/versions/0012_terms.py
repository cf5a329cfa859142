"""Columns and tables take the standard terms

Revision: 0012, after 0011
"""

from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column('accounts', 'lane', new_column_name='integration')
    op.alter_column('inbox', 'lane', new_column_name='integration')
    op.execute("UPDATE inbox SET integration = 'internal' WHERE integration = 'stock'")
    op.alter_column('fulfillments', 'told_channel', new_column_name='channel_notified')
    op.execute("UPDATE timeline SET what = 'timeline.channel_notified', key = replace(key, 'told_channel:', 'channel_notified:')"
               " WHERE what = 'timeline.told_channel'")
    op.rename_table('carriage_rules', 'carrier_rules')
    op.rename_table('carriage_weights', 'carrier_weights')
    op.execute('ALTER INDEX carriage_rules_pkey RENAME TO carrier_rules_pkey')
    op.execute('ALTER INDEX carriage_weights_pkey RENAME TO carrier_weights_pkey')


def downgrade() -> None:
    op.execute('ALTER INDEX carrier_weights_pkey RENAME TO carriage_weights_pkey')
    op.execute('ALTER INDEX carrier_rules_pkey RENAME TO carriage_rules_pkey')
    op.rename_table('carrier_weights', 'carriage_weights')
    op.rename_table('carrier_rules', 'carriage_rules')
    op.execute("UPDATE timeline SET what = 'timeline.told_channel', key = replace(key, 'channel_notified:', 'told_channel:')"
               " WHERE what = 'timeline.channel_notified'")
    op.alter_column('fulfillments', 'channel_notified', new_column_name='told_channel')
    op.execute("UPDATE inbox SET integration = 'stock' WHERE integration = 'internal'")
    op.alter_column('inbox', 'integration', new_column_name='lane')
    op.alter_column('accounts', 'integration', new_column_name='lane')
