"""The contract of every broker: each adapter inherits this class and passes its tests on a real server."""

from __future__ import annotations

from broker.base import Broker
from tests.contract.installation import Installation
from tests.contract.log_contract import LogContract
from tests.contract.publish_contract import PublishContract
from tests.contract.settle_contract import SettleContract
from tests.contract.upkeep_contract import UpkeepContract


class BrokerContract(PublishContract, SettleContract, LogContract, UpkeepContract):
    """The whole contract."""

    async def test_a_ping_is_answered(self, broker: Broker) -> None:
        await broker.ping()

    async def test_closing_twice_is_fine(self, installation: Installation) -> None:
        broker = await installation.broker()
        await broker.close()
        await broker.close()
