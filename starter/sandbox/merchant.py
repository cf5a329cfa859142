"""The merchant of demo and tests: its catalogue and locations. Its stock is received through the ledger."""

from datetime import date
from decimal import Decimal

from activities.catalogue.seed import insert_missing
from activities.kit.database import Connection
from models.address import Recipient
from models.exchange_rates import ExchangeRateRow
from models.stock import BundleRow, LocationKind, SkuRow, WarehouseRow, WarehouseSystem

SKUS: tuple[tuple[str, str, str, str, str], ...] = (
    ("A001", "White cotton T-shirt", "白色纯棉T恤", "59.00", "0.220"),
    ("A002", "Black cotton T-shirt", "黑色纯棉T恤", "59.00", "0.220"),
    ("A003", "Linen shirt", "亚麻衬衫", "199.00", "0.280"),
    ("A004", "Denim jacket", "牛仔外套", "359.00", "0.850"),
    ("A005", "Wool sweater", "羊毛毛衣", "429.00", "0.520"),
    ("A006", "Down vest", "羽绒马甲", "499.00", "0.460"),
    ("A007", "Straight jeans", "直筒牛仔裤", "259.00", "0.640"),
    ("A008", "Jogging trousers", "运动长裤", "169.00", "0.410"),
    ("A009", "Canvas belt", "帆布腰带", "49.00", "0.150"),
    ("A010", "Cotton socks, five pairs", "纯棉袜五双装", "39.90", "0.260"),
    ("A011", "Silk scarf", "真丝围巾", "288.00", "0.090"),
    ("A012", "Straw hat", "草编帽", "89.00", "0.130"),
    ("B001", "Celadon tea cup", "青瓷茶杯", "68.00", "0.310"),
    ("B002", "Gaiwan", "盖碗", "128.00", "0.380"),
    ("B003", "Yixing teapot", "宜兴紫砂壶", "680.00", "0.560"),
    ("B004", "Bamboo tea tray", "竹制茶盘", "239.00", "1.900"),
    ("B005", "Glass carafe", "玻璃冷水壶", "79.00", "0.740"),
    ("B006", "Cast-iron wok", "铸铁炒锅", "329.00", "2.650"),
    ("B007", "Chef's knife", "中式菜刀", "219.00", "0.480"),
    ("B008", "Cutting board", "整木砧板", "149.00", "1.750"),
    ("B009", "Bamboo steamer", "竹蒸笼", "99.00", "0.690"),
    ("B010", "Rice bowl", "白瓷饭碗", "25.00", "0.240"),
    ("B011", "Dinner plate", "骨瓷餐盘", "45.00", "0.420"),
    ("B012", "Chopsticks, ten pairs", "檀木筷十双装", "58.00", "0.200"),
    ("C001", "Longjing green tea, 100 g", "西湖龙井100克", "268.00", "0.160"),
    ("C002", "Tieguanyin oolong, 250 g", "安溪铁观音250克", "198.00", "0.340"),
    ("C003", "Pu'er tea cake, 357 g", "普洱茶饼357克", "328.00", "0.400"),
    ("C004", "Jasmine tea, 200 g", "茉莉花茶200克", "88.00", "0.280"),
    ("C005", "Acacia honey, 500 g", "洋槐蜂蜜500克", "76.00", "0.720"),
    ("C006", "Walnuts, 1 kg", "薄皮核桃1千克", "65.00", "1.080"),
    ("C007", "Dried shiitake, 250 g", "干香菇250克", "59.90", "0.310"),
    ("C008", "Northeastern rice, 5 kg", "东北大米5千克", "72.00", "5.100"),
    ("C009", "Sesame oil, 500 ml", "小磨香油500毫升", "46.00", "0.810"),
    ("C010", "Chilli sauce, 280 g", "香辣酱280克", "16.90", "0.430"),
    ("C011", "Mooncakes, eight", "月饼八枚装", "168.00", "0.880"),
    ("C012", "Goji berries, 500 g", "宁夏枸杞500克", "79.00", "0.540"),
    ("D001", "Wireless earbuds", "无线耳机", "399.00", "0.140"),
    ("D002", "Power bank, 10,000 mAh", "充电宝10000毫安", "129.00", "0.260"),
    ("D003", "USB-C charger, 65 W", "65瓦快充头", "159.00", "0.150"),
    ("D004", "USB-C cable, 2 m", "2米数据线", "29.00", "0.060"),
    ("D005", "Mechanical keyboard", "机械键盘", "469.00", "1.050"),
    ("D006", "Wireless mouse", "无线鼠标", "119.00", "0.120"),
    ("D007", "Laptop stand", "笔记本支架", "139.00", "0.930"),
    ("D008", "Desk lamp", "护眼台灯", "279.00", "1.420"),
    ("D009", "Smart watch", "智能手表", "1299.00", "0.190"),
    ("D010", "Phone case", "手机壳", "39.00", "0.050"),
    ("D011", "Bluetooth speaker", "蓝牙音箱", "239.00", "0.610"),
    ("D012", "Webcam", "高清摄像头", "199.00", "0.180"),
    ("E001", "Face cream, 50 g", "面霜50克", "238.00", "0.210"),
    ("E002", "Cleansing foam, 120 g", "洁面乳120克", "89.00", "0.170"),
    ("E003", "Sunscreen, 60 ml", "防晒乳60毫升", "119.00", "0.110"),
    ("E004", "Sheet masks, ten", "面膜十片装", "99.00", "0.330"),
    ("E005", "Lipstick", "口红", "179.00", "0.040"),
    ("E006", "Shampoo, 500 ml", "洗发水500毫升", "69.00", "0.560"),
    ("E007", "Body lotion, 400 ml", "身体乳400毫升", "79.00", "0.450"),
    ("E008", "Hand cream, three", "护手霜三支装", "59.00", "0.190"),
    ("E009", "Electric toothbrush", "电动牙刷", "299.00", "0.300"),
    ("E010", "Bath towel", "纯棉浴巾", "69.00", "0.480"),
    ("F001", "Camping tent", "双人帐篷", "599.00", "2.900"),
    ("F002", "Sleeping bag", "睡袋", "269.00", "1.300"),
    ("F003", "Trekking poles", "登山杖一对", "189.00", "0.520"),
    ("F004", "Vacuum flask", "保温杯", "129.00", "0.360"),
    ("F005", "Yoga mat", "瑜伽垫", "119.00", "1.150"),
    ("F006", "Skipping rope", "跳绳", "35.00", "0.180"),
    ("F007", "Badminton rackets, two", "羽毛球拍一对", "159.00", "0.440"),
    ("F008", "Head torch", "头灯", "99.00", "0.120"),
    ("P001", "Spring Festival gift box (presale)", "年货礼盒（预售）", "399.00", "2.200"),
    ("K001", "Tea for two", "双人茶具套装", "289.00", "1.000"),
    ("K002", "Kitchen starter set", "厨房入门套装", "699.00", "4.880"),
    ("K003", "Desk set", "办公桌面套装", "699.00", "2.100"),
    ("K004", "Table for four", "四人餐具套装", "319.00", "2.840"),
    ("K005", "Weekend outdoors", "周末露营套装", "1049.00", "4.920"),
)
"""SKU, title, Chinese title, price in CNY, weight in kg. ``K`` are bundles."""

PRESALE = frozenset({"P001"})
"""SKUs that may be sold beyond the stock at hand."""

BUNDLES: dict[str, dict[str, int]] = {
    "K001": {"B001": 2, "B002": 1},
    "K002": {"B006": 1, "B007": 1, "B008": 1},
    "K003": {"D005": 1, "D006": 1, "D007": 1},
    "K004": {"B010": 4, "B011": 4, "B012": 1},
    "K005": {"F001": 1, "F002": 1, "F004": 2},
}

STOCKED: tuple[str, ...] = tuple(sku for sku, *_ in SKUS if sku not in BUNDLES)
"""SKUs that are kept in stock; bundles are assembled from them."""

WAREHOUSES: tuple[WarehouseRow, ...] = (
    WarehouseRow(
        code="SH",
        name="Shanghai",
        name_zh="上海仓",
        province="上海市",
        rank=10,
        carrier="sf",
        system=WarehouseSystem.WMS,
        sender=Recipient(
            name="恒单上海仓",
            phone="02150000001",
            province="上海市",
            city="上海市",
            district="青浦区",
            street="华新镇仓储路1号",
        ),
    ),
    WarehouseRow(
        code="GZ",
        name="Guangzhou",
        name_zh="广州仓",
        province="广东省",
        rank=20,
        carrier="sf",
        system=WarehouseSystem.WMS,
        sender=Recipient(
            name="恒单广州仓",
            phone="02050000002",
            province="广东省",
            city="广州市",
            district="白云区",
            street="太和镇仓储路2号",
        ),
    ),
    WarehouseRow(
        code="BJ",
        name="Beijing",
        name_zh="北京仓",
        province="北京市",
        rank=30,
        carrier="yto",
        system=WarehouseSystem.WMS,
        sender=Recipient(
            name="恒单北京仓",
            phone="01050000003",
            province="北京市",
            city="北京市",
            district="大兴区",
            street="黄村镇仓储路3号",
        ),
    ),
    WarehouseRow(
        code="CD",
        name="Chengdu",
        name_zh="成都仓",
        province="四川省",
        rank=40,
        carrier="yto",
        system=WarehouseSystem.WMS,
        sender=Recipient(
            name="恒单成都仓",
            phone="02850000004",
            province="四川省",
            city="成都市",
            district="双流区",
            street="航空港仓储路4号",
        ),
    ),
)


SUPPLIER = WarehouseRow(
    code="FAC",
    name="Yiwu factory",
    name_zh="义乌工厂（一件代发）",
    kind=LocationKind.SUPPLIER,
    province="浙江省",
    rank=900,
    carrier="yto",
    system=WarehouseSystem.WMS,
    lead_days=1,
    sender=Recipient(
        name="恒单代发",
        phone="057950000005",
        province="浙江省",
        city="金华市",
        district="义乌市",
        street="稠江街道工厂路5号",
    ),
)
"""A supplier that drop-ships from its own stock."""


EXCHANGE_RATES = [
    ExchangeRateRow(currency=currency, base="CNY", day=date(2020, 1, 1), rate=Decimal(rate))
    for currency, rate in (("USD", "7.1"), ("EUR", "7.7"), ("GBP", "9"), ("HKD", "0.91"), ("JPY", "0.048"))
]


async def seed(connection: Connection) -> None:
    """Insert the catalogue, the locations and exchange rates; existing rows stay as they are."""
    skus = [
        SkuRow(
            sku=sku,
            title=title,
            title_zh=title_zh,
            price=Decimal(price),
            currency="CNY",
            weight_kg=Decimal(weight),
            oversell=sku in PRESALE,
        )
        for sku, title, title_zh, price, weight in SKUS
    ]
    bundles = [
        BundleRow(bundle=bundle, sku=sku, quantity=quantity)
        for bundle, components in BUNDLES.items()
        for sku, quantity in components.items()
    ]
    await insert_missing(connection, skus, bundles, (*WAREHOUSES, SUPPLIER), EXCHANGE_RATES)
