from tests.pure import no_network as no_network
from tests.pure import postgres_server as postgres_server
from tests.pure import temporal_server as temporal_server
